"""What every system of a workload is given, in one folder: rows, initial weights, cohorts and the order of samples.

NumPy only: a peer's process imports nothing of fedkd. Files: ``x.npy``, ``y.npy`` (client after client), ``offsets.npy``,
``orders.npy`` ([rounds, epochs, rows], positions within the client), ``initial.npz``, ``meta.json``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Weights = dict[str, Array]


@dataclass(frozen=True)
class Inputs:
    """A workload on disk, memory-mapped."""

    folder: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        """Name, net, shape, classes, learning_rate, momentum, batch_size, epochs, clients, cohorts."""
        return dict(json.loads((self.folder / "meta.json").read_text()))

    @cached_property
    def initial(self) -> Weights:
        """The same initial weights for all, in the net's own order."""
        with np.load(self.folder / "initial.npz") as stored:
            return {name: stored[name] for name in stored.files}

    @cached_property
    def _arrays(self) -> dict[str, Array]:
        return {n: np.load(self.folder / f"{n}.npy", mmap_mode="r") for n in ("x", "y", "offsets", "orders")}

    def rows(self, client: int) -> tuple[Array, Array]:
        """(x [K, *shape] float32, y [K] int64) of a client, copied."""
        start, end = self._span(client)
        return np.array(self._arrays["x"][start:end]), self._arrays["y"][start:end].astype(np.int64)

    def order(self, round: int, client: int) -> Array:
        """[epochs, K] the order of the client's samples in a round."""
        start, end = self._span(client)
        return np.asarray(self._arrays["orders"][round, :, start:end], dtype=np.int64)

    def batches(self, round: int, client: int) -> list[Array]:
        """The client's steps of a round: positions of each batch, all epochs one after the other."""
        size = int(self.meta["batch_size"])
        return [epoch[i : i + size] for epoch in self.order(round, client) for i in range(0, len(epoch), size)]

    def cohort(self, round: int) -> list[int]:
        """The clients of a round."""
        return list(self.meta["cohorts"][round])

    def _span(self, client: int) -> tuple[int, int]:
        start, end = self._arrays["offsets"][client : client + 2]
        return int(start), int(end)


def said(round: int) -> None:
    """Tell the harness that a round has ended (``at`` is on the host's monotonic clock)."""
    print(json.dumps({"round": round, "at": time.monotonic()}), flush=True)


def keep(out: Path, weights: Weights, cohort: list[int]) -> None:
    """Write the average of round 0 and whose it is, for the comparison with the reference."""
    np.savez(out / "average.npz", **weights)
    (out / "cohort.json").write_text(json.dumps([int(c) for c in cohort]))


def arguments(argv: list[str]) -> tuple[Inputs, int, int, Path]:
    """(inputs, rounds, workers, folder for what is kept) of a driver's command line."""
    folder, rounds, workers, out = argv[1:5]
    return Inputs(Path(folder)), int(rounds), int(workers), Path(out)


def argv() -> list[str]:
    """The command line (a function, so that a test can go without it)."""
    return sys.argv


DEVICE = "FEDKD_BENCH_DEVICE"
"""Environment variable: "cpu" or "cuda"."""


def device() -> str:
    """Where this process trains."""
    return os.environ.get(DEVICE, "cpu")


SHARE = "FEDKD_BENCH_SHARE"
"""Environment variable "i/n": this process takes every n-th client of a cohort, from the i-th on."""


def share(cohort: list[int]) -> list[int]:
    """The part of a cohort that this process takes (all of it where nothing is said)."""
    position, _, count = os.environ.get(SHARE, "0/1").partition("/")
    return cohort[int(position) :: int(count)]
