"""A swing study as a configuration: text, canaries, models, regimes, and the arms that share them (specs: swing, 3 and 5)."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from fedkd import canary, plugins
from fedkd.config import digest8, parse_args, parse_table
from fedkd.distill import Training
from fedkd.errors import ConfigError
from fedkd.language import Size, check_size
from fedkd.losses import swing as swing_loss
from fedkd.swing_arms import ARMS, GROUPS, Regime, arm_gaps

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

FORMAT = 1
"""Version of every draw and file of a study; part of its hash."""

KD_WEIGHT: dict[Regime, float] = {"R1": 0.5, "R2": 1.0, "R3": 1.0, "R4": 1.0}
"""Weight of the soft targets: R1 distils on the teacher's own rows; R2 on the same rows with fresh digits in every copy; R3 on
text alone (specs: swing, section 5); R4, decided here, on public text that no teacher with secrets has read, which is what a
formal statement needs."""

TEACHERS = ("private", "control", "public")
"""private: the rows with the canaries; control: text in their place; public: other plays and the decoys only."""


@dataclass(frozen=True)
class Text:
    """The text that is learned, and how it is cut."""

    name: str = "shakespeare"
    """a file of fedkd/texts"""
    args: str = ""
    """its Config"""
    root: str = ""
    """folder of its files; empty = the usual places"""
    tokenizer: Literal["characters", "bpe", "teacher"] = "characters"
    """one token per character, byte-level BPE with single digits, or that of the teacher's folder"""
    bpe_size: int = 1024
    """tokens of the BPE, trained on the public rows"""
    width: int = 64
    """tokens of a row, after the first"""
    rows: int = 1600
    """rows of text, without decoys and canaries"""
    validation: int = 500
    """rows of other groups (plays, senders), for perplexity"""

    def __post_init__(self) -> None:
        if min(self.width, self.rows, self.validation) < 1:
            raise ConfigError(
                f"text: width = {self.width}, rows = {self.rows}, validation = {self.validation}; each must be at least 1: an "
                "empty transfer set teaches nothing"
            )


@dataclass(frozen=True)
class Net:
    """A decoder and how it is trained."""

    folder: str = ""
    """pretrained: a folder of Hugging Face files or a hub id, trained on from there; empty = untrained, of the shape below"""
    family: str = "gpt2"
    """see fedkd.language.Size"""
    width: int = 64
    """values per position"""
    layers: int = 2
    """blocks"""
    heads: int = 4
    """attention heads"""
    epochs: int = 8
    """passes over its rows"""
    learning_rate: float = 3e-3
    """the largest"""
    batch_size: int = 32
    """rows per step"""

    @property
    def training(self) -> Training:
        """Its optimizer."""
        return Training(self.epochs, self.learning_rate, self.batch_size)

    def size(self, vocabulary: int, context: int) -> Size:
        """Its shape for a vocabulary."""
        return Size(self.family, vocabulary, self.width, self.layers, self.heads, context)


@dataclass(frozen=True)
class Plan:
    """A study: what is learned, by whom, protected how, and asked for what."""

    name: str
    """names the study; not part of the hash"""
    seeds: tuple[int, ...] = (0,)
    """each draws text, canaries, teachers and students anew"""
    regimes: tuple[Regime, ...] = ("R2", "R1")
    """transfer sets, see KD_WEIGHT"""
    arms: tuple[str, ...] = ()
    """names of ARMS; empty = those of the main group that make sense in a regime"""
    more: tuple[str, ...] = ()
    """further students, after all others: names of ARMS or GROUPS, "R1:kd" for one regime alone"""
    long_arms: tuple[str, ...] = ()
    """arms that are also trained ``long_factor`` times as long, in the first regime"""
    long_factor: int = 3
    """epochs of a long arm over those of the others"""
    divergence: str = "kl"
    """a file of fedkd/losses"""
    divergence_args: str = "temperature = 1.0, squared = false"
    """its Config; the protection sets the temperatures"""
    sensitivity: str = "regex"
    """a file of fedkd/sensitivity that works on text"""
    sensitivity_args: str = ""
    """its Config"""
    text: Text = field(default_factory=Text)
    """the text"""
    canaries: canary.Config = field(default_factory=partial(canary.Config, references=0))
    """the secrets"""
    teacher: Net = field(default_factory=partial(Net, width=128, epochs=10, learning_rate=2e-3))
    """teacher, control teacher and public model"""
    student: Net = field(default_factory=Net)
    """all students"""
    protection: swing_loss.Config = field(default_factory=swing_loss.Config)
    """of the arms ``swing``, ``temperature``, ``noise`` and their kin"""

    @property
    def hash(self) -> str:
        """Eight hex digits over all that determines a student's numbers, seeds and lists of arms aside."""
        skipped = ("name", "seeds", "regimes", "arms", "more", "long_arms")
        return digest8(
            {"format": FORMAT, **{f.name: repr(getattr(self, f.name)) for f in fields(self) if f.name not in skipped}}
        )

    def tasks(self) -> list[Task]:
        """Every student of the study: the headline regime first, ``more`` last, so that a stopped study has its core."""
        core = [(regime, a, 1) for regime in self.regimes for a in self.arms or GROUPS["main"]]
        long = [(self.regimes[0], a, self.long_factor) for a in self.long_arms]
        more = [(regime, a, 1) for regime, a in self._further() if (regime, a, 1) not in core]
        parts = [[w for w in dict.fromkeys(part) if w[0] in ARMS[w[1]].regimes] for part in (core, long, more)]
        return [Task(seed, *w) for part in parts for seed in self.seeds for w in part]

    def _further(self) -> list[tuple[Regime, str]]:
        """(regime, arm) of ``more``. Raises: ConfigError for an unknown regime, arm or group."""
        found: list[tuple[Regime, str]] = []
        for entry in self.more:
            before, _, name = entry.rpartition(":")
            regimes: list[Regime] = [r for r in KD_WEIGHT if r == before] if before else list(self.regimes)
            if not regimes or name not in (*ARMS, *GROUPS):
                raise ConfigError(f"more = {entry!r}: an arm or a group ({', '.join(GROUPS)}), with R1: to R4: before it")
            found += [(r, a) for r in regimes for a in GROUPS.get(name, (name,))]
        return found


@dataclass(frozen=True)
class Task:
    """One student."""

    seed: int
    regime: Regime
    arm: str
    factor: int
    """epochs over the student's own"""

    @property
    def stem(self) -> str:
        """Stem of its file."""
        return f"s{self.seed}-{self.regime}-{self.arm}" + (f"-x{self.factor}" if self.factor > 1 else "")


def study_file(path: Path, kind: str) -> dict[str, Any]:
    """The content of a study's TOML file without its ``kind``.

    Raises: ConfigError for a missing file, text that is not TOML, or a study of another kind.
    """
    try:
        whole = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"no configuration {path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path.name} is not valid TOML: {error}") from None
    if whole.pop("kind", kind) != kind:
        raise ConfigError(f'{path.name}: kind must be "{kind}"')
    return whole


def study_plan(path: Path, kind: str, default: T, tables: Sequence[str]) -> T:
    """The plan of a study's TOML file: its fields, and each of ``tables`` as the default's with the file's values.

    Raises: ConfigError as :func:`study_file`, and for an unknown field or a wrong type.
    """
    whole = study_file(path, kind)
    own = {name: changed(getattr(default, name), whole.pop(name, {}), f"{path.name}: [{name}]") for name in tables}
    return replace(parse_table({"name": path.stem, **whole}, type(default), path.name), **own)


def read_plan(path: Path) -> Plan:
    """A TOML file with ``kind = "swing"``, the fields of :class:`Plan`, and tables for text, canaries, teacher, student and
    protection.

    Raises: ConfigError for a missing file, text that is not TOML, an unknown field or arm, a wrong type or value.
    """
    default = Plan(path.stem)
    plan = study_plan(path, "swing", default, ("text", "canaries", "teacher", "student", "protection"))
    for field_name in ("kd_weight", "mask_hard_private", "formal"):
        if getattr(plan.protection, field_name) != getattr(default.protection, field_name):
            raise ConfigError(f"{path.name}: [protection] {field_name} is set by the regime and the arm; leave it out")
    for name, values in (("seeds", plan.seeds), ("regimes", plan.regimes), ("arms", plan.arms), ("long_arms", plan.long_arms)):
        if len(set(values)) < len(values):
            raise ConfigError(f"{path.name}: {name} = {list(values)} names one twice")
    if plan.long_arms and plan.long_factor < 2:
        raise ConfigError(f"{path.name}: long_factor = {plan.long_factor}; valid: 2 or more")
    if plan.protection.noise_key == "redraw":
        raise ConfigError(f'{path.name}: noise_key = "redraw" needs a teacher that is asked at each use; valid: content, row')
    module = plugins.find("losses", plan.divergence)
    parse_args(plan.divergence_args, module.Config, "divergence_args")
    for net in (plan.teacher, plan.student):
        _ = net.training  # its checks name what is valid
        if not net.folder:
            check_size(net.size(2, 2))
    wrong = [a for a in (*plan.arms, *plan.long_arms) if a not in ARMS]
    if wrong:
        raise ConfigError(f"{path.name}: unknown arm {wrong[0]!r}; valid: {', '.join(ARMS)}")
    unknown = [r for r in plan.regimes if r not in KD_WEIGHT]
    if unknown or not plan.regimes or not plan.seeds:
        raise ConfigError(f"{path.name}: regimes are R1, R2, R3 and R4, at least one; and at least one seed is needed")
    module = plugins.find("sensitivity", plan.sensitivity)
    if not hasattr(module, "find"):
        raise ConfigError(f"{path.name}: {plan.sensitivity} does not read text; valid for sensitivity: regex, combined, oracle")
    parse_args(plan.sensitivity_args, module.Config, "sensitivity_args")
    for task in plan.tasks():
        gap = arm_gaps(task.arm, plan.protection, hasattr(module, "recognise"))
        if gap:
            raise ConfigError(f"{path.name}: {gap}")
    return plan


def changed(default: T, table: Any, where: str) -> T:
    """The default dataclass with a table's values."""
    if not isinstance(table, dict):
        raise ConfigError(f"{where} must be a table")
    known = dict(vars(default))
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ConfigError(f"{where}: unknown field {unknown[0]!r}; valid fields: {', '.join(known)}")
    return parse_table({**known, **table}, type(default), where)
