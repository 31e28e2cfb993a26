"""A peer that trains in one process, twice side by side: each process takes half of every cohort and averages its own half.

The two never exchange weights: an upper bound of what two of its processes can do. A round has ended when both have ended it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.speed.inputs import SHARE, argv


def ends(rounds: list[list[float]]) -> list[float]:
    """When each round ended in both processes: [processes][rounds] -> [rounds]."""
    return [max(times) for times in zip(*rounds, strict=True)]


def main(module: str, folder: str, rounds: str, out: str) -> None:
    """Raises: RuntimeError where a half fails."""
    processes = []
    for half in (0, 1):
        place = Path(out) / str(half)
        place.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", module, folder, rounds, "1", str(place)]
        environment = {**os.environ, SHARE: f"{half}/2"}
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    streams = [process.stdout for process in processes]
    with ThreadPoolExecutor() as pool:
        for _ in range(int(rounds)):
            lines = list(pool.map(lambda stream: stream.readline() if stream else "", streams))
            if not all(lines):
                raise RuntimeError(f"{module}: a half ended early")
            both = [json.loads(line) for line in lines]
            print(json.dumps({"round": both[0]["round"], "at": ends([[b["at"]] for b in both])[0]}), flush=True)
    if any(process.wait() for process in processes):
        raise RuntimeError(f"{module}: a half failed")


if __name__ == "__main__":
    _, folder, rounds, _, out, module = argv()
    main(module, folder, rounds, out)
