"""The errors that cross a boundary: each carries one clear line and, where it can, the fix."""

from __future__ import annotations


class ConfigError(ValueError):
    """A mistake in usage or configuration, found before anything started (command line: exit code 2)."""


class DataError(ConfigError):
    """A data set is missing or not what its hash says; the message names the command that fetches it."""


class UploadError(ValueError):
    """A client's record was refused: wrong kind, name, shape, dtype, range, size, or not finite."""


class BudgetSpent(RuntimeError):
    """A client's next release would exceed its privacy budget: nothing leaves, and it takes no further part."""


class StateMissing(RuntimeError):
    """A client does not hold the state version that the server's commit names (it never restarts from zero)."""


class RunError(RuntimeError):
    """The run ended without its result (exit code 1): aborted by policy, too few replies, disk full."""


class WorkerLost(RunError):
    """A worker process died (out of memory, killed): the run can go on from its last committed round."""


class WaitExpired(RuntimeError):
    """A bounded wait ran out (exit code 4); the message says who was waited for and who came."""
