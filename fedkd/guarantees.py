"""What each mechanism guarantees, to whom, and what voids it: the table as code, and what a run may state by it.

A run's guarantee is the composition over all its channels (specs: guarantees, rule 3): every kind that is sent, and the
metrics. Mechanisms add up only where they speak of one unit and one adjacency. Whatever is not covered means no guarantee
and no epsilon, and then one line says which channel it is. ``python -m fedkd.guarantees`` prints the table of
docs/guarantees.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedkd import epsilon
from fedkd.epsilon import Event
from fedkd.errors import ConfigError

if TYPE_CHECKING:
    from fedkd.setting import Setting

SEED_KNOWN = "simulation: the noise seed is known"
EVERYONE = "everyone, the server included"
READERS = "those who see only aggregates; the server is trusted"
SCORES, SIZES = "scores of each client", "K_n"


@dataclass(frozen=True)
class Row:
    """One line of the table: what a mechanism bounds on a channel."""

    mechanism: str
    channel: str
    unit: str
    adjacency: str
    sensitivity: str
    adversary: str
    event: str
    note: str


TABLE = (
    Row("none", "everything", "-", "-", "-", "-", "none", "no guarantee"),
    Row("dpsgd", "weights, heads", "example", "add/remove", "clip C per example; gradient sum over a constant expected batch",
        EVERYONE, "Poisson-sampled Gaussian, participations x local steps",
        "no term couples samples; an empty batch is noise alone; rate and steps follow from K_n unless sampling_rate is set"),
    Row("user_clip_noise", "weights, heads (their means)", "user", "add/remove or replace, as said",
        "C (replace: 2C) with uniform weights over a fixed expected cohort; a client that is skipped adds zeros", READERS,
        "Gaussian, once per participation; no amplification by sampling", "personal layers never leave (joint guarantee)"),
    Row("clip_noise", "features, soft labels (rows)", "example", "replace", "joint over all K_n rows: 2C sqrt(K_n)",
        EVERYONE, "Gaussian on the joint release, per kind",
        "number and ids of rows count as public; without the joint figure: none"),
    Row("swing", "soft labels (rows)", "row, local", "replace", "2 tanh(R / 2T) in L1, with clipped logits",
        EVERYONE, "own (fedkd.accounting), where it is formal", "rows only: one record moves all rows of its client"),
    Row("pool", "features (rows)", "-", "-", "-", "-", "none", "no guarantee; measured by attacks only"),
    Row("permute", "rows", "-", "-", "-", "-", "none", "no guarantee; measured by attacks only"),
)  # fmt: skip
"""A file of ``fedkd/mechanisms`` has a row here (a test)."""


@dataclass(frozen=True)
class Claim:
    """What one mechanism, as configured, bounds in a run."""

    mechanism: str
    unit: str
    adjacency: str
    sensitivity: str
    adversary: str
    covers: frozenset[str]
    """kinds and metrics that it bounds"""
    sampling: str
    noise_multiplier: float
    clip: float
    delta: float
    outside: tuple[str, ...] = ()
    """what is assumed, or not covered and not a channel"""
    seeded: bool = False
    """whether the noise comes from the experiment's seed"""


OUTSIDE = (
    "hyperparameters and stopping chosen on validation data",
    "timing, failures and the fact of taking part",
    "floating-point attacks on the noise",
)
HOME = "scores and K_n: the simulation reads them from its clients' disks for its tables; no message holds them"


def row(mechanism: str) -> Row:
    """The line of a mechanism. Raises: KeyError."""
    return next(r for r in TABLE if r.mechanism == mechanism)


def markdown() -> str:
    """The table as docs/guarantees.md shows it."""
    head = ("mechanism", "channel", "unit", "adjacency", "L2 sensitivity", "adversary", "event in the accountant", "note")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for r in TABLE:
        cells = (f"`{r.mechanism}`", r.channel, r.unit, r.adjacency, r.sensitivity, r.adversary, r.event, r.note)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def check_noise(where: str, clip: float, noise: float, delta: float, budget: float, accounted: bool) -> None:
    """The ranges that mechanisms with a clip bound share. Raises: ConfigError, also where nothing could account."""
    if not clip > 0:
        raise ConfigError(f"{where}: clip = {clip}; it must be above 0 (inf = no clipping)")
    if not 0 <= noise < float("inf"):
        raise ConfigError(f"{where}: noise = {noise}; valid: 0 or more and finite")
    if noise and clip == float("inf"):
        raise ConfigError(f"{where}: noise without a clip bound bounds nothing; valid: a finite clip")
    if not 0 < delta < 1:
        raise ConfigError(f"{where}: delta = {delta}; valid: above 0, below 1")
    if not 0 <= budget < float("inf") or (budget and not accounted):
        raise ConfigError(f"{where}: budget = {budget}; valid: 0 (none), or an epsilon where every release is accounted")
    if accounted:
        epsilon.check_installed()


def sent(setting: Setting) -> set[str]:
    """Every kind that some round's uploads hold."""
    return {kind for t in range(setting.rounds) for kind in setting.module.schema(setting, t)}


def channels(setting: Setting) -> set[str]:
    """Every channel of private data: kinds that go up, and metrics where they travel. What goes down is made of these."""
    return sent(setting) | ({SCORES, SIZES} if setting.experiment.metrics == "sent" else set())


def refuse_unnamed(setting: Setting, covered: Iterable[str], pass_through: tuple[str, ...], mechanism: str) -> None:
    """Raises: ConfigError where a kind is sent that is neither bounded nor named as passing through."""
    others = sorted(sent(setting) - set(covered))
    if sorted(pass_through) != others:
        raise ConfigError(
            f"mechanism.args: pass_through = {list(pass_through)}, but {mechanism} cannot bound what else is sent; valid: "
            f"pass_through = {others} (no guarantee if not empty), or method.args that send less"
        )


def claims(setting: Setting) -> list[Claim]:
    """What the run's mechanisms claim, as configured."""
    from fedkd import outgoing

    asked = [(s, outgoing.hook(s, "claim")) for s in outgoing.each(setting)]
    found = [of(s) for s, of in asked if of is not None]
    return [c for c in found if c is not None]


def stated(setting: Setting) -> list[list[Claim]]:
    """Groups of claims of one unit and adjacency that cover every channel together; usually none or one."""
    groups: dict[tuple[str, str], list[Claim]] = {}
    for claim in claims(setting):
        groups.setdefault((claim.unit, claim.adjacency), []).append(claim)
    needed = channels(setting)
    return [group for group in groups.values() if needed <= frozenset().union(*(c.covers for c in group))]


def why_none(setting: Setting) -> str:
    """One line for a run without a guarantee: what leaves uncovered, and the fix where it is one key."""
    covered: set[str] = set().union(*(c.covers for c in claims(setting)))
    open_channels = sorted(channels(setting) - covered)
    if not open_channels:
        return "No guarantee: mechanisms of different units or adjacency each cover a part, and such parts do not add up."
    said = f"No guarantee: {', '.join(open_channels)} leave without accounted noise"
    if set(open_channels) <= {SCORES, SIZES}:
        return said + ' (metrics = "home" keeps them at home).'
    return said + "."


def privacy(
    setting: Setting, ledgers: Mapping[int, list[dict[str, Any]]], server: list[dict[str, Any]]
) -> tuple[str, dict[str, Any] | None]:
    """(one line, what summary.json records or None where there is no guarantee), recomputed from the ledgers.

    Args:
        ledgers: entries by client, those on this machine.
        server: entries of the server, which releases means.
    """
    groups = stated(setting)
    if not channels(setting):
        return "Nothing that depends on private data leaves a client, so no epsilon is computed.", None
    if not groups:
        return why_none(setting), None
    if not ledgers:
        return "No figure here: the ledgers lie on the devices.", None
    statements = [_statement(setting, group, ledgers, server) for group in groups]
    line = " ".join(s["line"] for s in statements)
    return line, {"line": line, "statements": statements}


def _statement(
    setting: Setting, group: list[Claim], ledgers: Mapping[int, list[dict[str, Any]]], server: list[dict[str, Any]]
) -> dict[str, Any]:
    delta, first = min(c.delta for c in group), group[0]
    names = {c.mechanism for c in group}
    events = {c: spent_by(c, entries, server, names) for c, entries in sorted(ledgers.items())}
    exact = {c: epsilon.pld(e, delta) for c, e in events.items()}
    renyi = {c: epsilon.rdp(e, delta) for c, e in events.items()}
    worst = max(exact, key=lambda c: exact[c])
    adversary = READERS if any(c.adversary == READERS for c in group) else EVERYONE
    seeded = f" ({SEED_KNOWN})" if any(c.seeded for c in group) else ""
    line = (
        f"epsilon <= {exact[worst]:.3g} (PLD; RDP {renyi[worst]:.3g}) at delta = {delta:g} for client {worst}, the largest of "
        f"{len(exact)}{seeded}. Unit: {first.unit}, {first.adjacency}; against {adversary}."
    )
    outside = [*dict.fromkeys(o for c in group for o in c.outside), *OUTSIDE]
    return {
        "line": line,
        "mechanism": ", ".join(sorted(names)),
        "epsilon": exact[worst],
        "epsilon_rdp": renyi[worst],
        "delta": delta,
        "unit": first.unit,
        "adjacency": first.adjacency,
        "adversary": adversary,
        "sensitivity": "; ".join(c.sensitivity for c in group),
        "sampling": "; ".join(c.sampling for c in group),
        "noise_multiplier": [c.noise_multiplier for c in group],
        "clip": [c.clip for c in group],
        "releases_max": max(sum(e.times for e in list_) for list_ in events.values()),
        "accountant": "dp-accounting: PLD (exact where all releases are unsampled Gaussian), RDP beside it; from the ledgers",
        "noise": SEED_KNOWN if seeded else "from the sender's own secret",
        "outside": [*outside, HOME] if setting.experiment.metrics == "home" else outside,
        "epsilon_by_client": {str(c): round(v, 6) for c, v in exact.items()},
    }


def spent_by(
    client: int, entries: Iterable[Mapping[str, Any]], server: Iterable[Mapping[str, Any]], mechanisms: Iterable[str]
) -> list[Event]:
    """What a client has spent: its own charges or, where the server counts more releases of its sums, the server's."""
    names = set(mechanisms)
    own = _events(e for e in entries if e.get("mechanism") in names)
    released = _events(e for e in server if e.get("mechanism") in names and client in e.get("clients", ()))
    kept = {(e.noise_multiplier, e.rate): e for e in epsilon.merged(own)}
    for e in epsilon.merged(released):
        before = kept.get((e.noise_multiplier, e.rate))
        kept[e.noise_multiplier, e.rate] = e if before is None or before.times < e.times else before
    return list(kept.values())


def _events(entries: Iterable[Mapping[str, Any]]) -> list[Event]:
    return [epsilon.from_json(v) for e in entries for v in e.get("events", ())]


if __name__ == "__main__":
    print(markdown(), end="")
