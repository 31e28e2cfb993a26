"""What a tree of processes has used: found by a variable of their environment, as Flower and Ray start their own sessions."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MARK = "FEDKD_BENCH_VISIT"
"""Environment variable whose value names a visit; every process that the visit starts inherits it."""
TICKS = os.sysconf("SC_CLK_TCK")


def marked(value: str, proc: Path = Path("/proc")) -> list[int]:
    """Ids of the processes that carry the mark, ascending."""
    wanted, found = f"{MARK}={value}".encode(), []
    for folder in proc.iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return sorted(found)


def cpu_seconds(pids: list[int], proc: Path = Path("/proc")) -> float:
    """User and system time of the processes so far (of ended children too, where their parent has collected them)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError):
            fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def pss_bytes(pids: list[int], proc: Path = Path("/proc")) -> int:
    """Proportional set size of the processes together: shared pages are divided among those that map them."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in (proc / str(pid) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total
