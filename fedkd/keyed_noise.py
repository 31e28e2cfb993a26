"""Noise that is a function of a key: the same query to the teacher gets the same draw, whatever the batch or order.

Keys are keyed BLAKE2b hashes, so that who does not know the secret cannot predict a draw; draws are Philox4x32-10 (Salmon
et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011, section 3.3), a counter-based generator computed for many keys
at once. Keys, releases and charges: specs, swing, section 2. NumPy only. Neither generator makes floating-point Laplace
noise exactly differentially private (Mironov 2012).
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

Keys = npt.NDArray[np.uint64]
CHUNK = 16384
"""Keys whose draws are computed together: bounds the memory, changes no bit."""


def content_keys(tokens: npt.ArrayLike, secret: int = 0, teacher: str = "") -> Keys:  # [N, L] -> [N, L - 1]
    """Key t of a record hashes (secret, teacher, tokens 0..t): all that the teacher read to predict token t + 1.

    Equal prefixes share a key wherever they stand; records must start with their first token (no cut rows).
    Raises: ValueError for tokens that are not [N, L] with L >= 1.
    """
    rows = _rows(tokens)
    found = np.empty((rows.shape[0], rows.shape[1] - 1), dtype=np.uint64)
    for row, values in enumerate(rows):
        state = _hash(secret, "content", teacher)
        text = values.astype("<i8").tobytes()
        for place in range(found.shape[1]):
            state.update(text[8 * place : 8 * place + 8])
            found[row, place] = int.from_bytes(state.digest(), "little")
    return found


def row_keys(rows: npt.ArrayLike, length: int, secret: int = 0, teacher: str = "") -> Keys:  # [N] ids -> [N, length]
    """Keys by row id and position in the transfer set: every copy of a record has its own draws.

    ``redraw`` uses these keys with another ``draw`` of ``unit_noise`` at each use.
    """
    ids = np.asarray(rows, dtype="<i8").reshape(-1)
    found = np.empty((ids.size, length), dtype=np.uint64)
    for row, number in enumerate(ids):
        state = _hash(secret, "row", teacher)
        state.update(number.tobytes())
        for place in range(length):
            each = state.copy()
            each.update(place.to_bytes(8, "little"))
            found[row, place] = int.from_bytes(each.digest(), "little")
    return found


def unit_noise(
    law: Literal["laplace", "gaussian"],
    keys: npt.ArrayLike,  # [..] uint64
    width: int,  # entries per key, V
    draw: int = 0,  # use number for ``redraw``; 0 for keys that keep their draw
) -> npt.NDArray[np.float32]:  # [.., width]
    """Laplace(0, 1) or N(0, 1) draws, a pure function of (key, draw) entry by entry."""
    flat = np.asarray(keys, dtype=np.uint64)
    found = np.empty((flat.size, width), dtype=np.float32)
    for start in range(0, flat.size, CHUNK):
        uniform = _uniform(flat.reshape(-1)[start : start + CHUNK], width, draw)
        found[start : start + CHUNK] = ndtri(uniform) if law == "gaussian" else _laplace(uniform)
    return found.reshape(*flat.shape, width)


def unit_uniform(keys: npt.ArrayLike, draw: int = 0) -> npt.NDArray[np.float64]:  # [..] uint64 -> [..] in (0, 1)
    """One uniform draw per key, for sampled targets."""
    flat = np.asarray(keys, dtype=np.uint64)
    return _uniform(flat.reshape(-1), 1, draw).reshape(flat.shape)


def shared_likelihood(keys: npt.ArrayLike, likelihood: npt.ArrayLike) -> npt.NDArray[np.float32]:  # [..], [..] -> [..]
    """The highest likelihood among positions with the same key.

    One query has one release, whatever label follows it in the transfer set: two temperatures under one draw would let a
    reader cancel the noise.
    """
    names, values = np.asarray(keys, dtype=np.uint64), np.asarray(likelihood, dtype=np.float32)
    _, inverse = np.unique(names.reshape(-1), return_inverse=True)
    highest = np.zeros(int(inverse.max(initial=-1)) + 1, dtype=np.float32)
    np.maximum.at(highest, inverse, values.reshape(-1))
    return highest[inverse].reshape(values.shape)


def first_of_key(keys: npt.ArrayLike) -> npt.NDArray[np.intp]:  # [..] -> [..] flat positions
    """For each position, the first flat position with its key: where a cached release is read, ``q.reshape(-1, V)[first]``."""
    names = np.asarray(keys, dtype=np.uint64)
    _, first, inverse = np.unique(names.reshape(-1), return_index=True, return_inverse=True)
    return np.asarray(first[inverse], dtype=np.intp).reshape(names.shape)


def charges(keys: npt.ArrayLike, mask: npt.ArrayLike, draws: int = 1) -> int:  # [..] uint64, [..] bool
    """Releases that a budget pays for: distinct keys among the masked positions, times the draws of each (``redraw``).

    A content key is paid once however often its record is copied or read; row keys pay every copy.
    Raises: ValueError where keys and mask differ in shape.
    """
    names, noised = np.asarray(keys, dtype=np.uint64), np.asarray(mask, dtype=bool)
    if names.shape != noised.shape:
        raise ValueError(f"keys {names.shape} and mask {noised.shape} must have one shape")
    return int(np.unique(names[noised]).size) * draws


def philox(keys: Keys, counters: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:  # [N], [M, 4] -> [N, M, 4]
    """Philox4x32-10: 128 random bits per (64-bit key, 128-bit counter)."""
    low, full = np.uint64(32), np.uint64(0xFFFFFFFF)
    k0, k1 = (part[:, None] for part in (keys & full, keys >> low))
    x0, x1, x2, x3 = (np.broadcast_to(counters[None, :, i].astype(np.uint64), (len(keys), len(counters))) for i in range(4))
    for _ in range(10):
        a, b = x0 * np.uint64(0xD2511F53), x2 * np.uint64(0xCD9E8D57)
        x0, x1, x2, x3 = (b >> low) ^ x1 ^ k0, b & full, (a >> low) ^ x3 ^ k1, a & full
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & full, (k1 + np.uint64(0xBB67AE85)) & full
    return np.stack([x0, x1, x2, x3], axis=-1).astype(np.uint32)


def _uniform(keys: Keys, width: int, draw: int) -> npt.NDArray[np.float64]:  # [N] -> [N, width] in (0, 1)
    counters = np.zeros((-(-width // 4), 4), dtype=np.uint32)
    counters[:, 0] = np.arange(len(counters))
    counters[:, 1], counters[:, 2] = draw & 0xFFFFFFFF, draw >> 32
    bits = philox(keys, counters).reshape(len(keys), -1)[:, :width]
    return np.asarray((bits + 0.5) * 2.0**-32)


def _laplace(uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    centred = uniform - 0.5
    return np.asarray(-np.sign(centred) * np.log1p(-2.0 * np.abs(centred)))


def _hash(secret: int, purpose: str, teacher: str) -> Any:
    key = hashlib.blake2b(str(secret).encode(), digest_size=32).digest()
    return hashlib.blake2b(f"{purpose}|{teacher}|".encode(), digest_size=8, key=key)


def _rows(tokens: npt.ArrayLike) -> npt.NDArray[np.int64]:
    rows = np.asarray(tokens, dtype=np.int64)
    if rows.ndim != 2 or rows.shape[1] < 1:
        raise ValueError(f"tokens must be [N, L] with L >= 1, got {rows.shape}")
    return rows
