"""One row of an audit, and the only three sentences that may be said about it.

Specs: audit, section 8. A row says what was measured on whom with which interval; its verdict is "leak shown:
...", "no leak shown at detectable size ..." or "not tested: ...". Generated text never promises anything:
`check_words` holds the banned words out of every page.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedkd.errors import ConfigError

LEAK, NO_LEAK, NOT_TESTED, MEASURED = "leak shown", "no leak shown", "not tested", "measured"
STATUSES = (LEAK, NO_LEAK, NOT_TESTED, MEASURED)

BANNED = (
    "safe",
    "is private",
    "is anonymous",
    "is secure",
    "protects privacy",
    "no leakage",
    "privacy guaranteed",
)
"""Words and phrases that generated output never contains."""


@dataclass(frozen=True)
class Row:
    """One measured statistic."""

    threat_model: str
    """Who attacks, and with what."""
    attack: str
    """The attack's name, as in ``fedkd/attacks/``."""
    model: str
    """The audited model."""
    target_group: str
    """Which candidates: "all", a class, a client, a repetition count."""
    unit: str
    """What a candidate is: record, token span, client."""
    view: str
    """What the attacker sees: scores, updates, logits, features, text."""
    statistic: str
    """For example "auc" or "tpr_at_fpr_0.001"."""
    value: float | None
    """The estimate; None where it was not measured."""
    low: float | None
    """Lower end of its interval."""
    high: float | None
    """Upper end of its interval."""
    level: float
    """Nominal level of the interval, in (0, 1)."""
    n_members: int
    """Members that the estimate rests on."""
    n_non_members: int
    """Non-members that the estimate rests on."""
    calibration: str
    """What was chosen on other data: the threshold and its sample, or "none"."""
    detectable: float | None
    """Size found with 80 % power by the rule that decides ``status``."""
    attacks_tried: int
    """Attacks tried on these candidates, so that multiplicity shows."""
    status: str
    """One of `STATUSES`; "measured" rows describe and carry no verdict."""
    reason: str
    """Why it was not tested, or a remark; may be empty."""

    def __post_init__(self) -> None:
        """Refuse a status that no sentence exists for."""
        if self.status not in STATUSES:
            raise ValueError(f"unknown status {self.status!r}; valid: {', '.join(STATUSES)}")


def show(value: float | None) -> str:
    """A number as a page shows it: four significant digits; "n/a" for None and NaN."""
    return "n/a" if value is None or math.isnan(value) else f"{value:.4g}"


def verdict(row: Row) -> str:
    """The one sentence of a row, in the exact wording of the specification.

    Raises: ValueError for a "measured" row, which has none.
    """
    if row.status == LEAK:
        return f"leak shown: {row.statistic} {show(row.value)} [{show(row.low)}, {show(row.high)}]"
    if row.status == NO_LEAK:
        return f"no leak shown at detectable size {row.statistic} {show(row.detectable)}"
    if row.status == NOT_TESTED:
        return f"not tested: {row.reason}"
    raise ValueError(f"{row.statistic} is a description and carries no verdict")


def banned_in(text: str) -> list[str]:
    """Banned words and phrases in ``text``, whatever the case or line breaks; pixels inside a page are no text."""
    flat = re.sub(r"\s+", " ", re.sub(r"data:image/png;base64,\s?[A-Za-z0-9+/=]+", "", text))
    return [phrase for phrase in BANNED if re.search(rf"\b{re.escape(phrase)}\b", flat, re.IGNORECASE)]


def check_words(text: str) -> str:
    """Return ``text`` where it contains no banned word.

    Raises: ConfigError naming the words; a group or model name is the usual source.
    """
    found = banned_in(text)
    if found:
        raise ConfigError(f"a report must not contain {', '.join(map(repr, found))}; rename the group or model")
    return text


def quoted(text: str) -> str:
    """What others wrote (an error message, a path) with banned words taken out: it must not cost a run its page."""
    for phrase in banned_in(text):
        words = r"\s+".join(map(re.escape, phrase.split()))
        text = re.sub(rf"\b{words}\b", "[word taken out]", text, flags=re.IGNORECASE)
    return text


def row_from(record: Mapping[str, Any]) -> Row:
    """A row of a result file; unknown keys are ignored, so that later versions stay readable.

    Raises: ConfigError for a missing key or an unknown status.
    """
    names = [field.name for field in dataclasses.fields(Row)]
    missing = [name for name in names if name not in record]
    if missing:
        raise ConfigError(f"a row of the result lacks {', '.join(missing)}")
    try:
        return Row(**{name: record[name] for name in names})
    except ValueError as error:
        raise ConfigError(str(error)) from None
