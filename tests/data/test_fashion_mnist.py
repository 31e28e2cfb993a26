"""Fashion-MNIST: IDX reading, pooling, order of sources, consent. A tiny set of our own stands in for the files."""

from __future__ import annotations

import gzip
import hashlib
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedkd.data import fashion_mnist
from fedkd.dataset import find_files
from fedkd.errors import DataError

STREAM = np.random.default_rng(0)
IMAGES = STREAM.integers(0, 256, (5, 28, 28), dtype=np.uint8)
LABELS = np.array([3, 1, 4, 1, 5], dtype=np.uint8)


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">i4").tobytes() + values.tobytes()


FILES = {
    "train-images-idx3-ubyte": idx(IMAGES[:3]),
    "train-labels-idx1-ubyte": idx(LABELS[:3]),
    "t10k-images-idx3-ubyte": idx(IMAGES[3:]),
    "t10k-labels-idx1-ubyte": idx(LABELS[3:]),
}


@pytest.fixture(autouse=True)
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pins of the tiny files, and no usual place but an empty one."""
    pins = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    monkeypatch.setattr(fashion_mnist, "SPEC", replace(fashion_mnist.SPEC, sha256=pins))
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(fashion_mnist.CONSENT, raising=False)


def put(folder: Path, packed: bool = False) -> None:
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / f"{name}{'.gz' * packed}").write_bytes(gzip.compress(content) if packed else content)


def test_train_then_test_standardised(tmp_path: Path) -> None:
    put(tmp_path / "r" / "FashionMNIST" / "raw")
    table = fashion_mnist.load(fashion_mnist.Config(), str(tmp_path / "r"))
    assert table.y.tolist() == LABELS.tolist()
    np.testing.assert_allclose(table.x[:, 0], (IMAGES / 255 - 0.2860) / 0.3530, atol=1e-5)
    assert fashion_mnist.spec(fashion_mnist.Config()).shape == (1, 28, 28)


def test_14_is_the_mean_of_2x2(tmp_path: Path) -> None:
    put(tmp_path / "r")
    config = fashion_mnist.Config(image_size=14)
    table = fashion_mnist.load(config, str(tmp_path / "r"))
    expected = IMAGES.reshape(5, 14, 2, 14, 2).mean(axis=(2, 4)) / 255
    np.testing.assert_allclose(table.x[:, 0] * fashion_mnist.STD[14] + fashion_mnist.MEAN, expected, atol=1e-5)
    assert fashion_mnist.spec(config).shape == table.x.shape[1:] == (1, 14, 14)


@pytest.mark.parametrize("place", ["r", "r/FashionMNIST/raw", "debian", "cache/fedkd/FashionMNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_every_place_is_found(tmp_path: Path, place: str, packed: bool) -> None:
    put(tmp_path / place, packed)
    assert len(fashion_mnist.load(fashion_mnist.Config(), str(tmp_path / "r"))) == 5


def test_root_comes_before_debian_and_debian_before_the_cache(tmp_path: Path) -> None:
    places = fashion_mnist.places(fashion_mnist.Config(), "r")
    assert places == [
        Path("r/FashionMNIST/raw"), Path("r"), tmp_path / "debian", tmp_path / "cache/fedkd/FashionMNIST/raw"
    ]  # fmt: skip


class Torchvision:
    """Stands in for torchvision.datasets: notes the call and writes the files, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.roots = error, list[str]()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def download(root: str, download: bool) -> None:
            assert download
            self.roots.append(root)
            if self.error is not None:
                raise self.error
            put(Path(root) / "FashionMNIST" / "raw", packed=True)

        fake = types.ModuleType("torchvision.datasets")
        fake.FashionMNIST = download  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
        monkeypatch.setitem(sys.modules, "torchvision.datasets", fake)


@pytest.mark.parametrize("consent", [None, "", "0", "yes"])
def test_no_download_without_consent(consent: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if consent is not None:
        monkeypatch.setenv(fashion_mnist.CONSENT, consent)
    torchvision = Torchvision()
    torchvision.install(monkeypatch)
    with pytest.raises(DataError, match="FEDKD_ALLOW_DOWNLOAD=1"):
        fashion_mnist.load(fashion_mnist.Config(), "")
    assert torchvision.roots == []


@pytest.mark.parametrize("root", ["", "given"])
def test_download_with_consent(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fashion_mnist.CONSENT, "1")
    monkeypatch.chdir(tmp_path)
    torchvision = Torchvision()
    torchvision.install(monkeypatch)
    assert len(fashion_mnist.load(fashion_mnist.Config(), root)) == 5
    assert len(fashion_mnist.load(fashion_mnist.Config(), root)) == 5
    assert torchvision.roots == [root or str(tmp_path / "cache" / "fedkd")], "once: the second load finds the files"


@pytest.mark.parametrize("error", [OSError("no route"), RuntimeError("File not found or corrupted.")])
def test_a_failed_download_names_the_command(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fashion_mnist.CONSENT, "1")
    Torchvision(error).install(monkeypatch)
    with pytest.raises(DataError, match=r"python -m simulations\.fetch fashion_mnist"):
        fashion_mnist.load(fashion_mnist.Config(), "")


def test_the_real_set_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """60,000 + 10,000 images, 7,000 a class; mean .2860 and standard deviation .3530 of the training part."""
    monkeypatch.undo()
    try:
        find_files(fashion_mnist.SPEC, fashion_mnist.places(fashion_mnist.Config(), ""))
    except DataError:
        pytest.skip(f"no files; fetch them with: {fashion_mnist.SPEC.fetch}")
    table = fashion_mnist.load(fashion_mnist.Config(image_size=14), "")
    assert np.bincount(table.y).tolist() == [7000] * 10
    assert abs(float(table.x[:60_000].mean(dtype=np.float64))) < 1e-3
    assert abs(float(table.x[:60_000].std(dtype=np.float64)) - 1) < 1e-3
