"""The C source compiled by the user's own compiler at first use, and kept for the next process."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from fedkd.errors import ConfigError
from fedkd.native import c_client, c_kernels, c_layers

FLAGS = ("-std=c11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-shared", "-fPIC")
"""Nothing that lets a compiler assume numbers to be finite or regroup sums: a diverged client stays NaN, and bits repeat."""
TARGETS = (("-march=native",), ("-mcpu=native",), ())
"""Tried in turn: not every compiler knows every spelling."""
SECONDS = 120
"""Time a compiler gets; it needs about four seconds."""
INSTEAD = 'use executor.name = "loop"'


def source() -> str:
    """The whole C source, whose lines say which module of this folder they stand in."""
    parts = (c_kernels, c_layers, c_client)
    return "".join(f'#line 4 "{m.__name__.rpartition(".")[2]}.py"{m.TEXT}' for m in parts)


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The compiled library, loaded once per process; calls release Python's lock.

    Raises: ConfigError where no compiler is found, or with the last lines of one that fails.
    """
    compiler = find_compiler()
    name = f"step-{_key(compiler)}"
    folder = cache_folder()
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="fedkd-") as temporary:
            return _load(_compile(compiler, name, Path(temporary)))
    return _load(_kept(name, folder) or _compile(compiler, name, folder))


def find_compiler() -> list[str]:
    """``$CC``, which may have options, else the first of cc, gcc and clang. Raises: ConfigError."""
    try:
        given = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        raise ConfigError(f"executor native: CC cannot be read ({error}); set CC, or {INSTEAD}") from None
    if given:
        if shutil.which(given[0]) is None:
            raise ConfigError(f"executor native: CC names {given[0]!r}, which is no command here; set CC, or {INSTEAD}")
        return given
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return [path]
    raise ConfigError(f"executor native: no C compiler found (cc, gcc, clang); install one or set CC, or {INSTEAD}")


def cache_folder() -> Path | None:
    """``$XDG_CACHE_HOME/fedkd/native``, or the same in ``~/.cache``, made where it is missing.

    None where it cannot be written, or where somebody else could put a library into it.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        folder = (given if given.is_absolute() else Path.home() / ".cache") / "fedkd" / "native"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except (OSError, RuntimeError):
        return None
    ours = found.st_uid == os.getuid() and not found.st_mode & 0o022
    return folder if ours and os.access(folder, os.W_OK | os.X_OK) else None


def _key(compiler: list[str]) -> str:
    """What the library's bits depend on: source, compiler, flags and the kind of CPU."""
    try:
        said = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=SECONDS, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"executor native: {compiler[0]} does not start ({error}); {INSTEAD}") from None
    parts = (source(), shlex.join(compiler), said, repr((FLAGS, TARGETS)), _cpu())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _cpu() -> str:
    """Model and features of the CPU, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    told = {line for line in lines if line.split(":")[0].strip() in ("model name", "flags", "Features", "CPU part")}
    return "\n".join([platform.machine(), platform.processor(), *sorted(told)])


def _kept(name: str, folder: Path) -> Path | None:
    """The library of an earlier process; one that is not what was written (cut short, changed) is removed."""
    for path in sorted(folder.glob(f"{name}-*.so")):
        try:
            if path.stem.endswith(_digest(path)):
                return path
            path.unlink()
        except OSError:
            continue
    return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def _compile(compiler: list[str], name: str, folder: Path) -> Path:
    """Compile to a name of its own, then rename: several processes may do so at once."""
    handle, made = tempfile.mkstemp(prefix=f".{name}-", suffix=".tmp", dir=folder)
    os.close(handle)
    said = ""
    try:
        for target in TARGETS:
            command = [*compiler, *FLAGS, *target, "-o", made, "-x", "c", "-", "-x", "none", "-lm"]
            done = subprocess.run(command, input=source().encode(), capture_output=True, timeout=SECONDS, check=False)
            if done.returncode == 0 and Path(made).stat().st_size:
                path = folder / f"{name}-{_digest(Path(made))}.so"
                os.replace(made, path)
                return path
            said = said or (done.stderr or done.stdout).decode(errors="replace") or f"it ends with code {done.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    finally:
        Path(made).unlink(missing_ok=True)
    last = "\n".join(said.strip().splitlines()[-5:])
    raise ConfigError(f"executor native: {shlex.join(compiler)} does not compile the native step; {INSTEAD}\n{last}")


def _load(path: Path) -> ctypes.CDLL:
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise ConfigError(f"executor native: {error}; {INSTEAD}") from None
    whole, real, at = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
    loaded.fedkd_scratch.argtypes = [at, whole, whole]
    loaded.fedkd_scratch.restype = whole
    loaded.fedkd_train.argtypes = [at, whole, at, at, at, at, whole, at, whole, whole, whole, real, real, real, at, whole]
    loaded.fedkd_train.restype = ctypes.c_int
    return loaded
