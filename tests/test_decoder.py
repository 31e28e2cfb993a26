"""The inverse network: it finds a map that exists, falls back to the mean where none does, and repeats bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from fedkd import decoder
from fedkd.decoder import Config
from fedkd.types import Array

FAST = Config(hidden=32, epochs=12, batch=32, learning_rate=3e-3)


def pairs(rows: int = 600, seed: int = 0) -> tuple[Array, Array, Array]:
    """Features that are a fixed rotation of 12 pixels; labels; images in 0..1."""
    stream = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(99).normal(size=(12, 12)))[0]
    y = stream.integers(3, size=rows)
    images = np.clip(stream.random((rows, 12)) * 0.5 + y[:, None] * 0.2, 0, 1).astype(np.float32)
    return (images @ turn).astype(np.float32), y, images


def error(network: decoder.Decoder, z: Array, labels: Array | None, images: Array) -> float:
    return float(((network(z, labels) - images) ** 2).mean())


def test_a_linear_map_is_inverted_on_rows_that_were_not_seen() -> None:
    z, _, images = pairs()
    network = decoder.train(FAST, lambda epoch: z, None, images, 3)
    z, _, images = pairs(seed=1)
    assert error(network, z, None, images) < 0.05 * float(images.var())


def test_constant_features_give_the_mean_and_with_a_label_the_class_mean() -> None:
    """The minimum of the squared error over constants is the mean: E(x), or E(x | y)."""
    _, y, images = pairs(3000)
    nothing = np.ones((3000, 5), np.float32)
    network = decoder.train(FAST, lambda epoch: nothing, None, images, 3)
    assert network(nothing[:3], None) == pytest.approx(np.tile(images.mean(axis=0), (3, 1)), abs=0.04)
    network = decoder.train(FAST, lambda epoch: nothing, y, images, 3)
    means = np.stack([images[y == k].mean(axis=0) for k in range(3)])
    assert network(nothing[:3], np.arange(3)) == pytest.approx(means, abs=0.04)


def test_features_are_drawn_anew_in_every_epoch() -> None:
    z, _, images = pairs(64)
    asked: list[int] = []

    def draw(epoch: int) -> Array:
        asked.append(epoch)
        return z

    decoder.train(FAST, draw, None, images, 3)
    assert asked == list(range(FAST.epochs))


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    z, y, images = pairs(100)
    first, again, other = (
        decoder.train(Config(hidden=8, epochs=2, seed=s), lambda epoch: z, y, images, 3)(z, y) for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_images_stay_in_range_and_one_row_is_enough_to_ask_about() -> None:
    z, y, images = pairs(50)
    made = decoder.train(Config(hidden=8, epochs=2), lambda epoch: z, y, images, 3)(100 * z[:1], y[:1])
    assert made.shape == (1, 12)
    assert made.min() >= 0 and made.max() <= 1
    assert made.dtype == np.float32
