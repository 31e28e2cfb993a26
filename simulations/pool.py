"""How a process of a pool starts: one thread, and never outliving the run that it works for."""

from __future__ import annotations

import multiprocessing
import os
import threading

from clients.cohort import one_thread


def worker() -> None:
    """Initializer of a pool's processes.

    A killed run leaves the processes of a ``ProcessPoolExecutor`` waiting for work for ever, with its models in memory.
    """
    one_thread()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
