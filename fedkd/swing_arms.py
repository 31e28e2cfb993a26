"""The arms of a swing study: how each student's lesson differs from plain distillation (specs: swing, sections 1 to 4).

Groups are arms that answer one question together; ``main`` is what a study runs unless its plan says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from fedkd.errors import ConfigError
from fedkd.losses import swing as swing_loss

Regime = Literal["R1", "R2", "R3", "R4"]
Change = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Missed:
    """A detector that misses: a share of what the patterns find is lost before propagation."""

    share: float
    """in [0, 1]"""
    strings: bool = False
    """whole strings are missed, in every record; else each occurrence by its own coin"""
    propagate: bool = True
    """what is left flags its other occurrences"""


@dataclass(frozen=True)
class Arm:
    """How a student's lesson differs from plain distillation."""

    label: str
    """in tables"""
    source: Literal["none", "teacher", "control", "nothing", "type", "prior", "public"] = "teacher"
    """what private positions learn from: no soft target anywhere, the private or the control teacher, nothing (redaction), the
    uniform distribution over the type's tokens, the type's unigram frequencies, the public model"""
    changes: Change | None = None
    """fields of the protection to change; None = no protection"""
    masked: bool = True
    """no hard label at private positions"""
    oracle: bool = False
    """private positions are known, not detected"""
    regimes: tuple[Regime, ...] = ("R1", "R2")
    """where it says something of its own"""
    divergence: tuple[str, str] | None = None
    """(file of fedkd/losses, its Config); None = the plan's"""
    missed: Missed | None = None
    """how the detector is degraded"""


_NO_NOISE: Change = (("noise", "none"),)
_FLAT: Change = (("temperature_high", 1.0),)
_BOTH: Change = (*_NO_NOISE, ("temperature_side", "both"))
_BOTH_SQUARED: Change = (*_BOTH, ("temperature_squared", True))

_MAIN: dict[str, Arm] = {
    "ce": Arm("text only (CE)", "none", masked=False),
    "kd": Arm("KD", masked=False, regimes=("R1", "R2", "R3", "R4")),
    "masked_kd": Arm("KD, hard labels masked", regimes=("R1",)),
    "control": Arm("KD, control teacher", "control", masked=False, regimes=("R1", "R2", "R3", "R4")),
    "temperature": Arm("dynamic temperature only", changes=_NO_NOISE),
    "noise": Arm("noise only", changes=_FLAT),
    "swing": Arm("swing", changes=()),
    "swing_oracle": Arm("swing, private positions known", changes=(), oracle=True, regimes=("R2",)),
    "swing_unmasked": Arm("swing, hard labels not masked", changes=(), masked=False, regimes=("R1",)),
    "both_squared": Arm("dynamic temperature, both sides, T^2", changes=_BOTH_SQUARED, regimes=("R1",)),
    "both": Arm("dynamic temperature, both sides", changes=_BOTH, regimes=("R1",)),
    "redaction": Arm("redaction", "nothing"),
    "typed": Arm("typed redaction, uniform", "type"),
    "typed_prior": Arm("typed redaction, prior of the type", "prior"),
    "public": Arm("public substitution", "public"),
}  # fmt: skip
_PLAIN = "temperature = 1.0"
DIVERGENCES: dict[str, tuple[str, str, str]] = {
    "reverse_kl": ("reverse KL", "kl", 'temperature = 1.0, squared = false, direction = "reverse"'),
    "jsd": ("Jensen-Shannon", "jsd", _PLAIN),
    "tv": ("total variation", "tv", _PLAIN),
    "alpha": ("alpha 0.5", "alpha", _PLAIN),
    "pld": ("Plackett-Luce", "pld", _PLAIN),
}
"""Key -> (label, file of fedkd/losses, its Config): minimised instead of forward KL, fed by the same targets."""
BUDGETS = (0.1, 1.0, 100.0, 1000.0)
"""Noise budgets per position beside the default."""
_DIVERGENCE = {
    f"{arm}_{key}": Arm(f"{label}, {name}", changes=changes, masked=masked, regimes=("R2",), divergence=(file, args))
    for key, (name, file, args) in DIVERGENCES.items()
    for arm, label, changes, masked in (("kd", "KD", None, False), ("swing", "swing", (), True))
}
_DETECTOR = {
    **{
        f"swing_missed_{share:.0%}"[:-1] + ("" if propagate else "_alone"): Arm(
            f"swing, {share:.0%} of the occurrences missed, {'propagated' if propagate else 'not propagated'}",
            changes=(), missed=Missed(share, propagate=propagate),
        )
        for share in (0.1, 0.3, 0.5) for propagate in (True, False)
    },
    **{
        f"swing_missed_strings_{share:.0%}"[:-1]: Arm(
            f"swing, {share:.0%} of the strings missed", changes=(), missed=Missed(share, strings=True)
        )
        for share in (0.1, 0.3)
    },
}  # fmt: skip
_BUDGET = {
    f"{arm}_eps_{epsilon:g}": Arm(
        f"{label}, eps {epsilon:g}", changes=(*changes, ("epsilon_per_position", epsilon)), regimes=("R1", "R2")
    )
    for epsilon in BUDGETS
    for arm, label, changes in (("swing", "swing", ()), ("noise", "noise only", _FLAT))
}
_FORMAL: Change = (
    ("formal", True), ("kd_weight", 1.0), ("noise_scope", "all"), ("epsilon_elsewhere", math.inf), ("noise_key", "content"),
    ("top_k", 0), ("sensitivity_bound", "clipped"),
)  # fmt: skip
_STATED = {"swing_formal": Arm("swing, formal", changes=_FORMAL, regimes=("R4",))}
"""Its logit_range and the noise are the plan's to choose: they decide the total."""
ARMS: dict[str, Arm] = {**_MAIN, **_DIVERGENCE, **_DETECTOR, **_BUDGET, **_STATED}
"""Every arm (specs: swing, section 3), in the order of tables."""
GROUPS: dict[str, tuple[str, ...]] = {
    "main": tuple(_MAIN), "divergence": tuple(_DIVERGENCE), "detector": tuple(_DETECTOR), "budget": tuple(_BUDGET),
    "formal": tuple(_STATED),
}  # fmt: skip
"""Arms that answer one question together: each protection; what is minimised; what the detector misses; how much noise; what
has a total epsilon."""


def arm_gaps(name: str, protection: swing_loss.Config, recognises: bool) -> str:
    """Why an arm does not fit a plan; empty where it does.

    Args:
        recognises: the plan's detector lists what it found before propagation.
    """
    arm = ARMS[name]
    if arm.missed is not None and not recognises:
        return f"arm {name} degrades a detector by patterns; valid sensitivity: regex"
    try:
        _ = replace(protection, **dict(arm.changes or ()))
    except ConfigError as error:
        return f"arm {name} does not fit the protection: {error}"
    return ""
