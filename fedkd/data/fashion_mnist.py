"""Fashion-MNIST: 70,000 grey images of clothes in 10 classes; train and test parts are merged, then split per client.

Source: Xiao, Rasul and Vollgraf, 2017, arXiv 1708.07747, Zalando Research. Licence: MIT. Files are looked for in
``data.root``, in Debian's package ``dataset-fashion-mnist``, in the user's cache; torchvision downloads them only with
consent (``FEDKD_ALLOW_DOWNLOAD=1``). Whatever the source, the uncompressed IDX bytes must match the pins.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from fedkd.dataset import Spec, Table, cache_root, find_files, read_checked
from fedkd.errors import DataError
from fedkd.types import Array

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CONSENT = "FEDKD_ALLOW_DOWNLOAD"
MEAN = 0.2860
STD = {28: 0.3530, 14: 0.3301}
"""Mean and standard deviation of the 60,000 training images in [0, 1], by image size; fixed for every subset."""

SPEC = Spec(
    name="fashion_mnist",
    shape=(1, 28, 28),
    classes=10,
    licence="MIT",
    source="Zalando Research; Xiao, Rasul and Vollgraf, 2017, arXiv 1708.07747",
    sha256={
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    fetch="python -m simulations.fetch fashion_mnist",
)


@dataclass(frozen=True)
class Config:
    """Choices of the images."""

    image_size: Literal[14, 28] = 28
    """side in pixels; 14 = mean of 2x2 pixels (decided here, as in the FedD2S pilot)"""


def spec(config: Config) -> Spec:
    """What this set is at the chosen image size."""
    return replace(SPEC, shape=(1, config.image_size, config.image_size))


def places(config: Config, root: str) -> list[Path]:
    """Folders searched, in order: torchvision's layout below ``root``, ``root``, Debian's package, the user's cache."""
    given = [Path(root) / "FashionMNIST" / "raw", Path(root)] if root else []
    return [*given, DEBIAN, cache_root() / "FashionMNIST" / "raw"]


def load(config: Config, root: str) -> Table:
    """All rows, train part first: x [70000, 1, s, s] float32 standardised with s = image_size, y [70000] int32.

    Raises: DataError where a file is missing (with the command that fetches it) or does not match its pin.
    """
    files = _files(config, root)
    raw = {name: read_checked(SPEC, name, path) for name, path in files.items()}
    images = np.concatenate([_idx(raw[f"{part}-images-idx3-ubyte"], 3) for part in ("train", "t10k")])  # [n, 28, 28]
    labels = np.concatenate([_idx(raw[f"{part}-labels-idx1-ubyte"], 1) for part in ("train", "t10k")])
    x = pooled(images) if config.image_size == 14 else images.astype(np.float32) / np.float32(255)
    x -= np.float32(MEAN)
    x /= np.float32(STD[config.image_size])
    return Table(x=x[:, None], y=labels.astype(np.int32))


def pooled(images: Array) -> Array:  # [n, 2h, 2w] uint8 -> [n, h, w] float32 in [0, 1]
    """The mean of each 2x2 square, scaled to [0, 1]."""
    total = np.zeros((len(images), images.shape[1] // 2, images.shape[2] // 2), dtype=np.uint16)
    for row in (0, 1):
        for column in (0, 1):
            total += images[:, row::2, column::2]
    return total.astype(np.float32) / np.float32(4 * 255)


def _files(config: Config, root: str) -> dict[str, Path]:
    try:
        return find_files(SPEC, places(config, root))
    except DataError as missing:
        if os.environ.get(CONSENT) != "1":
            raise DataError(f"{missing} (or set {CONSENT}=1 and let torchvision download it)") from None
    target = Path(root) if root else cache_root()
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(str(target), download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"fashion_mnist: torchvision's download failed ({error}); fetch it with: {SPEC.fetch}") from None
    return find_files(SPEC, [target / "FashionMNIST" / "raw"])


def _idx(raw: bytes, dimensions: int) -> Array:
    """The uint8 array of an IDX file: 4 bytes of magic, a big-endian int32 per dimension, the values."""
    shape = np.frombuffer(raw, dtype=">i4", count=dimensions, offset=4)
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)
