"""Compiling at first use: refusals by name, the cache and what may be wrong with it, several processes at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedkd.errors import ConfigError
from fedkd.native import compiler
from tests.toy import has_compiler, refusal, toy_setting

ROOT = Path(__file__).resolve().parents[2]
compiles = pytest.mark.skipif(not has_compiler(), reason="no C compiler on this machine")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and no library in this process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compiler.library.cache_clear()
    yield tmp_path / "cache" / "fedkd" / "native"
    compiler.library.cache_clear()


@pytest.fixture
def small_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two functions without their work, which compile in no time."""
    text = "int fedkd_train(void) { return 0; }\nlong long fedkd_scratch(void) { return -1; }\n"
    monkeypatch.setattr(compiler, "source", lambda: text)


def script(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


def refused() -> str:
    """What a run that asks for the native step is told before it starts."""
    said = refusal(lambda: toy_setting("fedavg", model_name="mlp", executor_name="native"))
    assert said.startswith("executor native: ")
    assert 'use executor.name = "loop"' in said
    return said


def test_no_compiler_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert "no C compiler found (cc, gcc, clang)" in refused()
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    assert "'no-such-compiler'" in refused()
    monkeypatch.setenv("CC", "'unclosed")
    assert "CC" in refused()


@pytest.mark.parametrize("lines", [('echo "boom: cannot" >&2', "exit 3"), ("echo boom: cannot",)])
def test_a_compiler_that_makes_nothing_is_refused_with_its_words(
    lines: tuple[str, ...], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", str(script(tmp_path / "broken", *lines)))
    assert "boom: cannot" in refused()
    assert list(cache.iterdir()) == [], "nothing half-made stays"


def test_a_compiler_that_does_not_start_or_writes_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.write_text("")
    empty.chmod(0o755)
    monkeypatch.setenv("CC", str(empty))
    assert "does not" in refused()
    monkeypatch.setenv(
        "CC", str(script(tmp_path / "liar", 'while [ $# -gt 1 ]; do [ "$1" = -o ] && echo no > "$2"; shift; done'))
    )
    refused()


def test_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedkd.setting.device_of", lambda experiment: torch.device("cuda"))
    assert "clients train on cuda" in refused()


@compiles
@pytest.mark.usefixtures("small_source")
def test_a_compiled_library_is_kept_and_found_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler.library()
    (path,) = cache.iterdir()
    assert cache.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(compiler, "_compile", lambda *given: pytest.fail("it was there"))
    compiler.library.cache_clear()
    assert compiler.library()._name == str(path)


@compiles
def test_its_name_holds_source_compiler_flags_and_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = compiler.find_compiler()
    other = script(tmp_path / "other", "echo other 1.0")
    keys = [compiler._key(found), compiler._key([str(other)]), compiler._key([*found, "-O1"])]
    for change in (("source", lambda: "int x;"), ("FLAGS", ()), ("_cpu", lambda: "another")):
        with monkeypatch.context() as patch:
            patch.setattr(compiler, *change)
            keys.append(compiler._key(found))
    assert len(set(keys)) == len(keys)
    assert compiler._key(found) == keys[0]


@compiles
@pytest.mark.usefixtures("small_source")
@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_library_is_compiled_again(damage: str, cache: Path) -> None:
    compiler.library()
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    path.unlink()  # it is mapped into this process: a new file, not a change of the old one
    path.write_bytes({"cut": whole[: len(whole) // 2], "changed": whole[:-9] + b"x" + whole[-8:], "empty": b""}[damage])
    compiler.library.cache_clear()
    kept = Path(compiler.library()._name)
    assert kept.parent == cache
    assert kept.stem.endswith(compiler._digest(kept))
    assert list(cache.iterdir()) == [kept]


@compiles
@pytest.mark.usefixtures("small_source")
def test_a_cache_that_cannot_be_used_is_no_obstacle(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in its place (nobody can write there, not even root), a folder that others can write, no home at all."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(script(tmp_path / "file")))
    assert compiler.cache_folder() is None
    assert not Path(compiler.library()._name).exists(), "loaded from a folder that is gone"
    shared = tmp_path / "shared" / "fedkd" / "native"
    shared.mkdir(parents=True)
    shared.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert compiler.cache_folder() is None
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert compiler.cache_folder() == tmp_path / "home" / ".cache" / "fedkd" / "native"
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert compiler.cache_folder() is None


@compiles
def test_processes_that_compile_at_once_all_get_a_library(cache: Path) -> None:
    command = [sys.executable, "-c", "from fedkd.native import compiler; print(compiler.library().fedkd_scratch(None, 0, 1))"]
    started = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [p.communicate(timeout=200)[0].split() for p in started] == [["-1"], ["-1"]]
    assert [p.suffix for p in cache.iterdir()] in ([".so"], [".so", ".so"])


@compiles
def test_a_compiler_without_march_native_is_asked_otherwise(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the plain vectors of four that it then makes are as right as the wide ones."""
    real = shutil.which(compiler.find_compiler()[0])
    refuse = 'for a in "$@"; do case $a in -m*=native) echo "unknown $a" >&2; exit 1;; esac; done'
    monkeypatch.setenv("CC", str(script(tmp_path / "plain", refuse, f'exec {real} "$@"')))
    compiler.library()
    assert len(list(cache.iterdir())) == 1
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/executors/test_native.py",
               "-k", "float64 or ties or flat_inputs or diverged"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, env=os.environ.copy())
    assert done.returncode == 0, done.stdout[-2000:]


def test_a_mistake_in_the_source_is_told_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module of text and the line in it, counted as an editor does."""
    text = compiler.source()
    for module in (compiler.c_kernels, compiler.c_layers, compiler.c_client):
        name = module.__name__.rpartition(".")[2]
        head = f'#line 4 "{name}.py"\n'
        line = text[text.index(head) + len(head) :].split("\n", 1)[0]
        assert Path(str(module.__file__)).read_text().split("\n")[3] == line
    if has_compiler():
        monkeypatch.setattr(compiler, "source", lambda: '#line 4 "c_kernels.py"\nthis is no C;\n')
        with pytest.raises(ConfigError, match=r"c_kernels\.py:4"):
            compiler.library()
