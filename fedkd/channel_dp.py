"""What a run's mechanisms claim, held against what they did: brackets on epsilon, and the ledger against messages and traces.

A bracket is printed only where the run itself states an epsilon (specs: guarantees, rule 3). Its lower end comes from
canaries through the mechanism's own code (``fedkd.dp_audit``) with the run's model, clip, noise and number of rounds; its upper
end is the accountant's, from the ledger. Conformance is exact: the bytes of each recorded message have their entry in the
sender's ledger, no recorded difference is above its bound, and traces of noisy steps fit their charges
(``fedkd.conformance``). Ledgers, traces and secrets are the clients': only the auditor of a simulation can read all of them.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from types import ModuleType
from typing import Any

from fedkd import clipping, conformance, dp_audit, epsilon, outgoing, rng
from fedkd.channel_messages import Round
from fedkd.dp_audit import Bracket
from fedkd.errors import ConfigError, StateMissing
from fedkd.finished import Finished
from fedkd.mechanisms import clip_noise, dpsgd, user_clip_noise
from fedkd.public import SUMMED
from fedkd.setting import Setting
from fedkd.store import NEVER, read_json
from fedkd.train import NoisySteps
from fedkd.types import Arrays, Broadcast, Kinds
from fedkd.vault import Vault
from fedkd.verdict import MEASURED, Row

CONFORMS, VIOLATED, NOT_CHECKED = "conforms", "violated", "not checked"
VIEWS = {"dpsgd": "weights up", "user_clip_noise": "weights down"}


# ----- brackets --------------------------------------------------------------------------------------------------------
def brackets(run: Finished, canaries: int, guesses: int, seed: int) -> tuple[list[Bracket], list[dict[str, str]]]:
    """(the brackets of a run that states an epsilon, what was not audited and why)."""
    privacy = read_json(run.folder / "summary.json").get("privacy")
    if not privacy:
        return [], [{"attack": "lower bound on epsilon", "reason": "the run states no epsilon, so there is none to bracket"}]
    found, left = [], []
    config = dp_audit.Config(canaries, min(guesses, canaries), seed)
    for s in outgoing.each(run.setting):
        name = _name(s.mechanism.module)
        if s.mechanism.module not in (dpsgd, user_clip_noise):
            if outgoing.hook(s, "claim") is not None:
                left.append({"attack": f"lower bound on epsilon: {name}", "reason": "canaries exist for dpsgd and "
                             "user_clip_noise; noise on rows is read by the attacks on rows"})  # fmt: skip
            continue
        try:
            said = next(p for p in privacy["statements"] if name in p["mechanism"].split(", "))
            found.append((_steps if s.mechanism.module is dpsgd else _means)(run, s, config, said))
        except ConfigError as error:
            left.append({"attack": f"lower bound on epsilon: {name}", "reason": str(error)})
    return found, left


def _steps(run: Finished, s: Setting, config: dp_audit.Config, privacy: dict[str, Any]) -> Bracket:
    """The client with the largest claim: its own samples, model, steps and noise."""
    spent = {int(c): float(v) for c, v in privacy["epsilon_by_client"].items()}
    client = min(spent, key=lambda c: (-spent[c], c))
    events = [epsilon.from_json(v) for e in _entries(run, client, "dpsgd") for v in e.get("events", ())]
    if len({(e.noise_multiplier, e.rate) for e in events}) != 1:
        raise ConfigError("the steps of a client have more than one rate or noise")
    data = run.data.client(client)
    job = s.module.prepare(s, {}, Broadcast(0, client, {}, {}), data)
    c, first = s.mechanism.config, events[0]
    steps = NoisySteps(sum(e.times for e in events), first.rate, c.clip, first.noise_multiplier, float(s.experiment.batch_size),
                       rng.key(config.seed, "audit noisy steps"))  # fmt: skip
    return dp_audit.noisy_steps(config, job, steps, epsilon.pld(events, c.delta), c.delta)


def _means(run: Finished, s: Setting, config: dp_audit.Config, privacy: dict[str, Any]) -> Bracket:
    """Canary clients through the run's own hooks, as many rounds as the client with the most releases took part in."""
    c = replace(s.mechanism.config, insecure_seeded_noise=False)
    quiet = replace(s, mechanism=replace(s.mechanism, config=c))
    rounds = int(privacy["releases_max"])
    claimed = epsilon.pld([e for _ in range(rounds) for e in c.event], c.delta)
    data = run.data.client(0)
    return dp_audit.noisy_means(config, quiet, data, rounds, claimed, c.delta, rng.key(config.seed, "audit noisy means"))


def bracket_records(found: list[Bracket]) -> list[dict[str, Any]]:
    """Brackets as the result holds them."""
    return [{**asdict(b), "violated": b.violated, "line": b.line} for b in found]


def bracket_rows(found: list[Bracket], model: str) -> list[Row]:
    """Both ends as rows, which the gate compares; a lower end is a description until it is above the upper one."""
    rows = []
    for b in found:
        for statistic, value in (("epsilon_lower", b.lower.epsilon), ("claimed_epsilon", b.claimed)):
            lower = statistic == "epsilon_lower"
            reads = f"who sees {b.reads}" if lower else b.adversary
            said = (
                f"delta = {b.lower.delta:g}; could have shown {b.lower.ceiling:.3g}" if lower else f"delta = {b.lower.delta:g}"
            )
            rows.append(Row(
                reads, "one_run" if lower else "accountant", model, "all", b.unit, VIEWS[b.mechanism], statistic, value,
                value if lower else None, None if lower else value, 1.0 - b.lower.alpha, b.lower.canaries if lower else 0, 0,
                f"{b.lower.guesses} guesses, fixed beforehand" if lower else "none", None, 1, MEASURED, said,
            ))  # fmt: skip
    return rows


# ----- conformance -----------------------------------------------------------------------------------------------------
class Conformance:
    """Checks of every round as it is replayed; ``records`` says what was found."""

    def __init__(self, run: Finished) -> None:
        self.run = run
        self.good: dict[str, int] = {}
        self.bad: dict[str, list[str]] = {}
        self.skipped: dict[str, int] = {}

    def read(self, r: Round) -> None:
        """Check one round."""
        for s in outgoing.each(self.run.setting):
            name = _name(s.mechanism.module)
            for client, sent in r.up.items():
                if s.mechanism.module is dpsgd:
                    self._steps(s, r, client)
                    continue
                bounded = released(s, r.number, sent.kinds)
                if bounded is None:
                    continue
                if outgoing.hook(s, "cost") is not None and outgoing.hook(s, "claim")(s) is not None:  # type: ignore[misc]
                    sha = hashlib.sha256(outgoing.fingerprint(r.number, bounded)).hexdigest()
                    charged = any(e["sha256"] == sha for e in _entries(self.run, client, name))
                    said = f"round {r.number + 1}, client {client}: a message without an entry in the ledger"
                    self._note(f"{name}: messages are in the ledger", charged, said)
                if s.mechanism.module is user_clip_noise and s.mechanism.config.clip < float("inf"):
                    size = clipping.norm(bounded)
                    said = f"round {r.number + 1}, client {client}: norm {size:g} above clip = {s.mechanism.config.clip:g}"
                    self._note(f"{name}: differences are clipped", size <= s.mechanism.config.clip, said)

    def records(self) -> list[dict[str, str]]:
        """One entry per check."""
        found = []
        for what in sorted({*self.good, *self.bad, *self.skipped}):
            bad, good, skipped = self.bad.get(what, []), self.good.get(what, 0), self.skipped.get(what, 0)
            status = VIOLATED if bad else CONFORMS if good else NOT_CHECKED
            detail = f"{good} participations conform, {len(bad)} do not"
            detail += f", {skipped} cannot be repeated from what is on disk" if skipped else ""
            found.append({"what": what, "status": status, "detail": f"{detail}; first: {bad[0]}" if bad else detail})
        return found

    def _note(self, what: str, fits: bool, otherwise: str) -> None:
        if fits:
            self.good[what] = self.good.get(what, 0) + 1
        else:
            self.bad.setdefault(what, []).append(otherwise)

    def _steps(self, s: Setting, r: Round, client: int) -> None:
        what = "dpsgd: steps, batches, norms, noise and divisor fit the ledger"
        entries = [e for e in _entries(self.run, client, "dpsgd") if e["round"] == r.number and e.get("events")]
        traces = [t for t in _vault(self.run, client).traces() if t["round"] == r.number]
        if not entries and dpsgd.neutral(s):
            return
        if not entries or not traces:
            self._note(what, False, f"round {r.number + 1}, client {client}: noisy steps without a charge or a trace")
            return
        steps = self._planned(s, r, client)
        if steps is None:
            self.skipped[what] = self.skipped.get(what, 0) + 1
            return
        event = epsilon.from_json(entries[-1]["events"][0])
        said = conformance.violations(event, steps, len(self.run.data.client(client).train), traces[-1]["steps"])
        self._note(what, not said, f"round {r.number + 1}, client {client}: {said[0] if said else ''}")

    def _planned(self, s: Setting, r: Round, client: int) -> NoisySteps | None:
        """The steps that the mechanism plans from what the client held and got; None where that is no longer on disk."""
        state = self._state(r.number, client)
        vault, came = _vault(self.run, client), r.down.get(client, {})
        if state is None or not (s.mechanism.config.insecure_seeded_noise or (vault.folder / "secret").is_file()):
            return None
        data = self.run.data.client(client)
        job = s.module.prepare(s, state, Broadcast(r.number, client, came, came), data)
        planned: NoisySteps | None = dpsgd.local(s, r.number, data, job, vault.secret).noisy
        return planned

    def _state(self, round: int, client: int) -> Arrays | None:
        """The method's part of what a client held before a round: {} in its first, or where the method keeps nothing."""
        if int(self.run.commit.versions[client]) == NEVER or round == self._first(client):
            return {}
        try:
            return outgoing.split(self.run.store.read(client, round - 1))[0]
        except StateMissing:
            return None

    def _first(self, client: int) -> int:
        rounds = [e["round"] for e in _entries(self.run, client, "dpsgd")]
        return min(rounds, default=0)


def released(s: Setting, round: int, kinds: Kinds) -> Kinds | None:
    """The part of a recorded message that a mechanism released and charged; None where it released nothing of it."""
    if s.mechanism.module is user_clip_noise and not user_clip_noise.neutral(s):
        part = {k: a for k, a in kinds.items() if k in SUMMED}
        return part or None
    if s.mechanism.module is clip_noise and not clip_noise.neutral(s):
        part = {k: kinds[k] for k in s.mechanism.config.kinds if k in kinds}
        return part or None
    return None


def _vault(run: Finished, client: int) -> Vault:
    return Vault(run.store.folder / str(client))


def _entries(run: Finished, client: int, mechanism: str) -> list[dict[str, Any]]:
    return [e for e in _vault(run, client).entries() if e.get("mechanism") == mechanism and e["channel"] == "up"]


def _name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]
