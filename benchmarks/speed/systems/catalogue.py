"""Every row of the tables: what it is called and how it is started."""

from __future__ import annotations

from benchmarks.speed.visits import System

PACKAGE = "benchmarks.speed.systems"
STOCK = ("stock", "stock-quickstart")
"""Stock Flower: the faster of the two is what ratios are taken over."""

NATIVE = ("inprocess", "executor.name=native")

SYSTEMS = {
    s.key: s
    for s in (
        System("loop-1", "plain torch loop, 1 worker", "loop", 1),
        System("loop-2", "plain torch loop, 2 workers", "loop", 2),
        System("inprocess-1", "fedkd, grid inprocess, 1 worker", "ours", 1, ("inprocess",)),
        System("inprocess-2", "fedkd, grid inprocess, 2 workers", "ours", 2, ("inprocess",)),
        System("native-1", "fedkd, grid inprocess, executor native, 1 worker", "ours", 1, NATIVE),
        System("native-2", "fedkd, grid inprocess, executor native, 2 workers", "ours", 2, NATIVE),
        System("flower", "fedkd, grid flower (cohort messages), 2 actors", "ours", 2, ("flower",)),
        System("ray", "fedkd, grid ray, 2 actors", "ours", 2, ("ray",)),
        System("stock", "Flower stock, one node per client, fast client, 2 actors", "stock", 2, ("staged",)),
        System("stock-quickstart", "Flower stock, quickstart client, 2 actors", "stock", 2, ("quickstart",), visits=1),
        System("stock-echo", "Flower stock, a client that echoes the model", "stock", 2, ("echo",), compared=False, visits=1),
        System("pfl-1", "pfl, 1 process", "pfl", 1),
        System("pfl-2", "pfl, 2 processes side by side", "halves", 2, (f"{PACKAGE}.pfl",)),
        System("fedjax", "FedJAX, jit backend, XLA's threads", "fedjax", 1),
        System("echo-1", "fedkd, grid inprocess, no local step, 1 worker", "ours", 1, ("inprocess", "local-epochs=0"),
               compared=False),
        System("echo-2", "fedkd, grid inprocess, no local step, 2 workers", "ours", 2, ("inprocess", "local-epochs=0"),
               compared=False),
    )
}  # fmt: skip
