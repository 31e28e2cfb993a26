"""All randomness: ``experiment`` streams repeat, ``secret`` ones must not.

Every stream has its own key, so what one part of a run draws never shifts what another part draws (client sampling,
batch order, initial weights, server shuffle, noise). Counter-based: no state is carried from round to round.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt


def key(seed: int, purpose: str, round: int = -1, client: int = -1, extra: bytes = b"") -> int:
    """A 128-bit key from what the stream is for; equal arguments give equal keys on every machine."""
    text = f"{seed}|{purpose}|{round}|{client}|".encode() + extra
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")


def experiment(seed: int, purpose: str, round: int = -1, client: int = -1, extra: bytes = b"") -> np.random.Generator:
    """The seeded stream of one purpose (design: law 1, same seed, same bits)."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, round, client, extra)))


def secret() -> np.random.Generator:
    """Operating-system entropy of this process: noise and sampling that a privacy ledger credits.

    A server that knew the seed of the noise could subtract it (specs: guarantees, rule 2).
    """
    return np.random.Generator(np.random.Philox(key=int.from_bytes(os.urandom(16), "little")))


def noise(noise_key: int, counter: int, shape: Sequence[int]) -> npt.NDArray[np.float32]:
    """Standard normal noise for one (key, counter): the same row gets the same noise wherever it is computed."""
    bits = np.random.Philox(key=noise_key, counter=[0, 0, counter & (2**64 - 1), counter >> 64])
    return np.random.Generator(bits).standard_normal(tuple(shape), dtype=np.float32)


@contextlib.contextmanager
def torch_scope(scope_key: int) -> Iterator[None]:
    """Run third-party code that draws from torch's global CPU generator under a key, and put the generator back."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(scope_key & (2**63 - 1))  # the CPU's alone: torch.manual_seed takes 1 ms
        yield
