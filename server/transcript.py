"""Every message of a run on disk, for attacks on channels (``record = "messages"``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save

from clients import codec
from fedkd.store import write_atomic
from fedkd.types import Kinds, Upload


class Transcript:
    """``transcript/<round>/up-<client>.safetensors`` and ``down-<client>.safetensors``; names are ``<kind>/<name>``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def uploads(self, round: int, rows: list[Upload]) -> None:
        """Accepted uploads of a round. Raises: OSError."""
        for upload in rows:
            self._write(round, f"up-{upload.client}", upload.kinds)

    def broadcast(self, round: int, client: int, shared: Kinds, own: Kinds) -> None:
        """What went down to one client: shared and own together. Raises: OSError."""
        kinds = {kind: {**shared.get(kind, {}), **own.get(kind, {})} for kind in (*shared, *own)}
        self._write(round, f"down-{client}", kinds)

    def _write(self, round: int, name: str, kinds: Kinds) -> None:
        folder = self.folder / str(round)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {n: np.asarray(v, order="C") for n, v in codec.flatten(kinds).items()}
        write_atomic(folder / f"{name}.safetensors", save(arrays))
