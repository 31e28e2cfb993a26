"""A worker process of the in-process grid: ``python -m simulations.grids.worker FD``."""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection

from simulations.grids.inprocess import serve

if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
