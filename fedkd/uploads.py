"""What the server has received in a round, and the checks that every upload passes before use (design: law 6)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedkd import fixed_point
from fedkd.errors import UploadError
from fedkd.fixed_point import Sums
from fedkd.types import Array, Arrays, ClientId, Schema, Upload


@dataclass
class Uploads:
    """A round's accepted uploads: one record per client (``rows``), or sums that the workers formed (``sums``)."""

    round: int
    cohort: int
    """how many clients were sampled, failed ones included"""
    schema: Schema = field(default_factory=dict)
    """what the method declared for this round"""
    rows: list[Upload] = field(default_factory=list)
    sums: dict[str, Sums] = field(default_factory=dict)
    sum_weight: int = 0
    sum_clients: list[ClientId] = field(default_factory=list)
    means: dict[str, Arrays] = field(default_factory=dict)
    """means that a mechanism formed; they stand for the rows and sums of their kinds"""

    def sorted(self) -> Uploads:
        """The same in client-id order: arrival order must not matter."""
        self.rows.sort(key=lambda u: u.client)
        self.sum_clients.sort()
        return self

    @property
    def clients(self) -> list[ClientId]:
        """Clients with a part in this round, ascending."""
        return sorted([*self.sum_clients, *(u.client for u in self.rows)])

    def mean(self, kind: str) -> Arrays | None:
        """Weighted mean of a kind over the clients, or None where nobody sent it."""
        if kind in self.means:
            return dict(self.means[kind])
        if kind in self.sums:
            dtypes = {n: np.dtype(f.dtype) for n, f in self.schema.get(kind, {}).items()}
            return fixed_point.decode(self.sums[kind], self.sum_weight, dtypes)
        parts = [(u.kinds[kind], u.weight) for u in self.rows if kind in u.kinds and u.weight > 0]
        return fixed_point.mean(parts, self.cohort) if parts else None

    def add_sums(self, sums: Mapping[str, Sums], weight: int, clients: list[ClientId]) -> None:
        """Add one worker's sums, all or nothing. Raises: UploadError where they do not fit together."""
        fixed_point.add_kinds(self.sums, sums)
        self.sum_weight += weight
        self.sum_clients += clients


def nbytes(kinds: Mapping[str, Arrays]) -> int:
    """Payload bytes: numbers alone, without names or framing."""
    return sum(a.nbytes for arrays in kinds.values() for a in arrays.values())


@np.errstate(over="ignore", invalid="ignore")
def check(schema: Schema, upload: Upload, max_bytes: float, *, finite: bool = True) -> None:
    """Refuse a record that is not what the method declared for this round.

    Args:
        finite: look for numbers that are none; false where ``fixed_point`` does so next.

    Raises: UploadError saying what is wrong: too large, an undeclared or missing kind or name, a wrong dtype or shape,
        rows that do not agree, a number out of range or not finite.
    """
    size = nbytes(upload.kinds)
    if size > max_bytes:
        raise UploadError(f"{size} bytes are above max-upload-mb = {max_bytes / 2**20:g}")
    if upload.kinds.keys() != schema.keys():
        raise UploadError(f"kinds {sorted(upload.kinds)} instead of {sorted(schema)}")
    rows: int | None = None
    for kind, fields in schema.items():
        if upload.kinds[kind].keys() != fields.keys():
            raise UploadError(f"{kind}: names {sorted(upload.kinds[kind])} instead of {sorted(fields)}")
        for name, want in fields.items():
            value, where = upload.kinds[kind][name], f"{kind}/{name}"
            if value.dtype != np.dtype(want.dtype):
                raise UploadError(f"{where}: dtype {value.dtype} instead of {want.dtype}")
            if value.ndim != len(want.shape) or any(w not in (None, n) for n, w in zip(value.shape, want.shape, strict=True)):
                raise UploadError(f"{where}: shape {value.shape} instead of {want.shape}")
            if want.shape and want.shape[0] is None:
                rows = value.shape[0] if rows is None else rows
                most = upload.weight if want.most is None else want.most
                if value.shape[0] != rows or rows > most:
                    raise UploadError(f"{where}: {value.shape[0]} rows instead of {min(rows, most)}")
            if finite and value.dtype.kind == "f" and not _finite(value):
                raise UploadError(f"{where}: not finite")
            if value.size and (
                (want.low is not None and value.min() < want.low) or (want.high is not None and value.max() >= want.high)
            ):
                raise UploadError(f"{where}: values {value.min()}..{value.max()} outside [{want.low}, {want.high})")


def _finite(value: Array) -> bool:
    """Whether all numbers are; a sum of squares that is finite says so in one pass, and one that is not says nothing."""
    flat = value.reshape(-1)
    return math.isfinite(flat @ flat) or bool(np.isfinite(flat).all())
