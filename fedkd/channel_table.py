"""The channels of a run: what travelled, who sees it, which mechanism acts on it, which attacks read it or why none does."""

from __future__ import annotations

from typing import Any

from fedkd import guarantees, outgoing
from fedkd.channel_attacks import ATTACKS, Scored
from fedkd.channel_links import Evidence
from fedkd.channel_messages import Traffic
from fedkd.channel_signals import PERSONAL
from fedkd.setting import Setting

THREATS = {
    "features up": "the server keeps every uploaded feature row and the blocks that came with them",
    "soft labels up": "the server keeps every uploaded soft label beside its features",
    "weights up": "the server keeps every client's uploaded model",
    "heads up": "the server keeps every client's uploaded blocks and head",
    "weights down": "a client, or who sees aggregates alone, keeps every averaged model",
    "heads down": "a client, or who sees aggregates alone, keeps every averaged head and its blocks",
    "personal models": "who is given a client's final personal model",
}
SEES = {"up": "the server, and who reads the wire", "down": "every client, and the server",
        "model": "who is given a client's final model"}  # fmt: skip
NO_MODEL = "no model that a candidate could be asked of: the receiver holds neither whole models nor the blocks below a cut"
REASONS = {
    "labels up": "raw labels are read, not inferred: see label disclosure",
    "ids up": "sample ids name rows and say nothing of their content; they link rounds",
    "class means up": "a class mean over at least min_class_count rows; label disclosure is measured, membership is not",
    "soft labels down": "they go back to the client that owns the rows; where label canaries exist, exposure reads them",
    "class means down": "averages over clients of class means; no attack on single examples is built for them",
    "ids down": "sample ids name rows of the client that they go to",
}


def channels(
    setting: Setting, moved: dict[tuple[str, str], Traffic], attacks: list[Scored], evidence: Evidence
) -> list[dict[str, Any]]:
    """One record per channel, uploads first, the clients' final models last."""
    found = []
    covered = _covered(setting)
    for (direction, kind), t in sorted(moved.items(), key=lambda item: (item[0][0] != "up", item[0][1])):
        name = f"{kind.replace('_', ' ')} {direction}"
        found.append({
            "channel": name, "direction": direction, "kinds": [kind], "who_sees": SEES[direction],
            "mechanism": _mechanism(setting, direction, kind),
            "covered": kind in covered.get(direction, frozenset()),
            "bytes_per_client_round": t.bytes / t.messages, "attacks": _tried(name, attacks, evidence),
            "rounds": [t.first, t.last],
        })  # fmt: skip
    last = setting.rounds
    found.append({
        "channel": PERSONAL, "direction": "model", "kinds": ["weights"], "who_sees": SEES["model"],
        "mechanism": _mechanism(setting, "model", "weights"), "covered": False, "bytes_per_client_round": 0.0,
        "attacks": _tried(PERSONAL, attacks, evidence), "rounds": [last, last],
    })  # fmt: skip
    return found


def _tried(channel: str, attacks: list[Scored], evidence: Evidence) -> list[str]:
    names = [a.attack.name for a in attacks if a.attack.channel == channel]
    names += ["label_histogram"] if channel in evidence.mass else []
    return names + (["linkage"] if any(x.channel == channel for x in evidence.links) else [])


def _mechanism(setting: Setting, direction: str, kind: str) -> str:
    """Mechanisms that act on a kind in a direction; "none" without one."""
    acts = {
        "pool": direction == "up" and kind == "features",
        "permute": direction == "up" and kind in ("features", "soft_labels", "labels", "ids"),
        "swing": kind == "soft_labels",
        "dpsgd": True,
        "user_clip_noise": kind in ("weights", "heads") and direction != "model",
    }
    names = []
    for s in outgoing.each(setting):
        name = s.mechanism.module.__name__.rpartition(".")[2]
        hit = direction == "up" and kind in s.mechanism.config.kinds if name == "clip_noise" else acts.get(name, False)
        names += [name] if hit else []
    return ", ".join(names) or "none"


def _covered(setting: Setting) -> dict[str, frozenset[str]]:
    """Direction -> kinds that a claim bounds against who sees that direction."""
    out: dict[str, frozenset[str]] = {"up": frozenset(), "down": frozenset()}
    for s in outgoing.each(setting):
        of = outgoing.hook(s, "claim")
        claim = None if of is None else of(s)
        if claim is not None:
            out["down"] |= claim.covers
            if claim.adversary == guarantees.EVERYONE:
                out["up"] |= claim.covers
    return out


def unread(channel: dict[str, Any], attacks: list[Scored]) -> dict[str, str] | None:
    """The verdict of a channel that no attack on single examples reads; None where one does."""
    name = channel["channel"]
    if any(a.attack.channel == name for a in attacks) or (name not in THREATS and channel["attacks"]):
        return None
    reason = REASONS.get(name, NO_MODEL if name in THREATS else "no attack on this channel is built")
    who = THREATS.get(name, f"{channel['who_sees']} ({name})")
    return {"threat_model": who, "target_group": "all", "text": f"not tested: {reason}"}


def not_run(
    setting: Setting, attacks: list[Scored], moved: dict[tuple[str, str], Traffic], exposure: str
) -> list[dict[str, str]]:
    """Attacks of the specification that this audit did not run, and why."""
    tried = {(a.attack.channel, a.attack.name) for a in attacks}
    found = []
    for attack in ATTACKS:
        if (attack.channel, attack.name) in tried:
            continue
        kind, _, direction = attack.channel.rpartition(" ")
        if attack.channel != PERSONAL and (direction, kind.replace(" ", "_")) not in moved:
            reason = f"no {kind} travel {direction} in this run"
        elif setting.experiment.num_clients <= attack.least:
            reason = f"it compares with {attack.least} other clients; the run has {setting.experiment.num_clients}"
        else:
            reason = NO_MODEL
        found.append({"attack": f"{attack.channel} | {attack.name}", "reason": reason})
    if not any(a.attack.name.startswith("distill_lira") for a in attacks):
        reason = "shadows = 0: other clients' models stand for shadows (co-op lira); give shadows = 8 or more"
        found.append({"attack": "distill_lira with shadow federations", "reason": reason})
    found.append({"attack": "active server (crafted weights)", "reason": "adversaries of this audit are passive"})
    found.append(
        {"attack": "gradient inversion", "reason": "no gradient of one batch travels: messages are trained over epochs"}
    )
    if exposure:
        found.append({"attack": "exposure of label canaries", "reason": exposure})
    return found
