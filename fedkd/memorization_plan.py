"""A memorization study as a configuration: text with a ramp of copies, teacher, students and the arms (specs: memorization)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Literal

from fedkd import plugins
from fedkd.config import digest8
from fedkd.distill import Training
from fedkd.errors import ConfigError
from fedkd.language import check_size
from fedkd.swing_plan import Net, study_plan

FORMAT = 1
"""Version of every draw and file of a study; part of its hash."""

Stratum = Literal["formulaic", "high_entropy"]
STRATA = ("formulaic", "high_entropy")
"""formulaic: headers and footers of mailing lists; high_entropy: template lines with made-up names and random codes."""


@dataclass(frozen=True)
class Text:
    """What is planted how often, and what stands beside it (after specs: memorization, section 12, but half the tokenizer, the
    pool and the single copies, and half of what is planted 16 and 32 times)."""

    prose: str = "sotu"
    """a file of fedkd/texts: the text of the untouched bases, and of a second held-out set"""
    strata: tuple[Stratum, ...] = ("formulaic", "high_entropy")
    """kinds of planted passages, in equal parts of each number of copies"""
    root: str = ""
    """folder of the texts' files; empty = the usual places"""
    bpe_size: int = 512
    """tokens of the byte-level BPE (single digits), trained on rows that nothing else uses"""
    prefix: int = 32
    """tokens that the attacker holds"""
    suffix: int = 32
    """tokens that must come out"""
    copies: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 12, 16, 32)
    """ramp of repetitions"""
    passages: tuple[int, ...] = (200, 60, 40, 40, 40, 30, 30, 20, 10, 10)
    """passages at each number of copies, all strata together"""
    pool: int = 4000
    """rows of prose that the bases are trained on"""
    extra: int = 500
    """rows of each stratum in the pool, and as many in the tokenizer's text"""
    held_out: int = 500
    """rows of each stratum that no model sees: the control for chance"""
    held_out_prose: int = 1000
    """rows of prose that no model sees"""

    @property
    def width(self) -> int:
        """Tokens of a row, after the first."""
        return self.prefix + self.suffix

    def __post_init__(self) -> None:
        if min(self.prefix, self.suffix, self.held_out, self.held_out_prose, self.pool) < 1 or self.extra < 0:
            raise ConfigError("text: prefix, suffix, pool, held_out and held_out_prose must be at least 1, extra at least 0")
        if len(self.copies) != len(self.passages) or not self.copies or min(*self.copies, *self.passages) < 1:
            raise ConfigError("text: copies and passages are lists of one length, of numbers of at least 1")
        if list(self.copies) != sorted(set(self.copies)):
            raise ConfigError(f"text: copies = {list(self.copies)} must rise")
        wrong = [s for s in self.strata if s not in STRATA]
        if wrong or not self.strata or len(set(self.strata)) < len(self.strata):
            raise ConfigError(f"text: strata = {list(self.strata)}; valid: {', '.join(STRATA)}, each once")


@dataclass(frozen=True)
class Own:
    """The user's own finished models and text: nothing is trained (specs: memorization, section 9)."""

    base: str = ""
    """folder or hub id of the untouched student; empty = none"""
    teacher: str = ""
    """folder or hub id; naming one turns the study into an audit of finished models"""
    baseline: str = ""
    """folder or hub id of a student trained without the teacher; empty = none, and the sets that need it are n/a"""
    students: tuple[str, ...] = ()
    """folders or hub ids of the distilled models"""
    text: str = ""
    """folder of .txt files that the teacher was trained on"""
    held_out: str = ""
    """folder of .txt files of the same kind that no model was trained on; empty = no control, and the report says so"""
    record: Literal["file", "paragraph", "line"] = "paragraph"
    """what one example is"""
    prefix: int = 50
    """tokens that the attacker holds"""
    suffix: int = 50
    """tokens that must come out"""

    def __post_init__(self) -> None:
        if self.teacher and not (self.students and self.text):
            raise ConfigError("[own] teacher needs students (a list of folders or hub ids) and text (a folder of .txt files)")
        if (self.students or self.text) and not self.teacher:
            raise ConfigError("[own] students and text need a teacher (a folder or hub id)")
        if min(self.prefix, self.suffix) < 1:
            raise ConfigError("[own] prefix and suffix must be at least 1")


@dataclass(frozen=True)
class Plan:
    """A study: what is planted, who learns it from whom, and which arms are run."""

    name: str
    """names the study; not part of the hash"""
    teachers: tuple[int, ...] = (0,)
    """each draws text, bases, teacher and students anew"""
    seeds: tuple[int, ...] = (0,)
    """of baseline, student and hard student, per teacher: another order of the rows"""
    arms: tuple[str, ...] = ()
    """further ARMS, with the first seed of each teacher"""
    temperature: float = 2.0
    """of the distillation"""
    kd_weight: float = 1.0
    """weight of the soft targets; the rest is cross-entropy on the text"""
    smoothing: float = 0.1
    """label smoothing of the arm ``smoothed``"""
    floor: float = 0.05
    """teacher_stopped: least share of the passages that it memorizes (decision 18)"""
    text: Text = field(default_factory=Text)
    """the text"""
    teacher: Net = field(default_factory=partial(Net, width=128, layers=3, epochs=8, batch_size=16))
    """the teacher"""
    student: Net = field(default_factory=partial(Net, width=96, layers=2, epochs=9, batch_size=16))
    """baseline and students"""
    scout: Net = field(default_factory=partial(Net, width=64, layers=2, epochs=9, batch_size=16))
    """a small student whose labels train the predictor (transfer mode)"""
    teacher_pool_rate: float = 2e-3
    """largest learning rate of the teacher's base on the pool, one epoch"""
    student_pool_rate: float = 3e-3
    """the same of the students' base"""
    own: Own = field(default_factory=Own)
    """finished models of the user, instead of all above"""

    @property
    def hash(self) -> str:
        """Eight hex digits over all that determines a model's numbers; seeds and lists of arms aside."""
        skipped = ("name", "teachers", "seeds", "arms")
        return digest8(
            {"format": FORMAT, **{f.name: repr(getattr(self, f.name)) for f in fields(self) if f.name not in skipped}}
        )

    def tasks(self) -> list[Task]:
        """Every trained student: the headline, seed by seed, then the arms in their order."""
        found = [Task(t, s, arm) for s in self.seeds for t in self.teachers for arm in HEADLINE]
        return found + [Task(t, self.seeds[0], arm) for arm in self.arms for t in self.teachers]


@dataclass(frozen=True)
class Task:
    """One student."""

    teacher: int
    seed: int
    arm: str

    @property
    def stem(self) -> str:
        """Stem of its files."""
        return f"t{self.teacher}-{self.arm}-{self.seed}"


@dataclass(frozen=True)
class Arm:
    """How a student learns."""

    label: str
    """in tables"""
    lesson: Literal["text", "soft", "hard", "smoothed"]
    """cross-entropy on the text, the teacher's soft targets, its greedy text, cross-entropy with label smoothing"""
    teacher: Literal["teacher", "teacher_stopped"] = "teacher"
    """whose targets"""
    temperature: float = 0.0
    """0 = the plan's"""
    kd_weight: float | None = None
    """None = the plan's"""
    transfer: Literal["same", "disjoint", "overlap", "filtered", "random"] = "same"
    """the teacher's passages, as many others, half of each, those that the predictor leaves, a random part of the same size"""
    net: Literal["student", "scout"] = "student"
    """its size and training"""


ARMS: dict[str, Arm] = {
    "baseline": Arm("B", "text"),
    "student": Arm("S", "soft"),
    "hard_student": Arm("S_hard", "hard"),
    "student_stopped": Arm("S, teacher chosen on held-out loss", "soft", teacher="teacher_stopped"),
    "hard_stopped": Arm("S_hard, teacher chosen on held-out loss", "hard", teacher="teacher_stopped"),
    "smoothed": Arm("B, label smoothing", "smoothed"),
    "student_t1": Arm("S, temperature 1", "soft", temperature=1.0),
    "student_t4": Arm("S, temperature 4", "soft", temperature=4.0),
    "student_half": Arm("S, half soft targets, half text", "soft", kd_weight=0.5),
    "student_disjoint": Arm("S, disjoint transfer set", "soft", transfer="disjoint"),
    "student_overlap": Arm("S, half of the transfer set shared", "soft", transfer="overlap"),
    "scout": Arm("scout (small S)", "soft", net="scout"),
    "student_filtered": Arm("S, pre-filtered", "soft", transfer="filtered"),
    "student_random": Arm("S, random part removed", "soft", transfer="random"),
}
"""The models of a study beside bases and teachers (specs: memorization, sections 1, 4 and 6)."""
HEADLINE = ("baseline", "student", "hard_student")
AFTER = {"student_filtered": ("scout",), "student_random": ("scout",)}
"""Arms that need results of others (of the first seed), beside the baseline's."""


def training_of(net: Net) -> Training:
    """Its optimizer: AdamW without decay."""
    return replace(net.training, weight_decay=0.0)


def read_plan(path: Path) -> Plan:
    """A TOML file with ``kind = "memorization"``, the fields of :class:`Plan`, and tables for text, the three sizes and own.

    Raises: ConfigError for a missing file, text that is not TOML, an unknown field or arm, a wrong type or value.
    """
    plan = study_plan(path, "memorization", Plan(path.stem), ("text", "teacher", "student", "scout", "own"))
    return checked(plan, path.name)


def checked(plan: Plan, where: str) -> Plan:
    """The plan, where it can be run. Raises: ConfigError."""
    for name, values in (("teachers", plan.teachers), ("seeds", plan.seeds), ("arms", plan.arms)):
        if len(set(values)) < len(values):
            raise ConfigError(f"{where}: {name} = {list(values)} names one twice")
    if not plan.teachers or not plan.seeds or min(*plan.teachers, *plan.seeds) < 0:
        raise ConfigError(f"{where}: at least one teacher and one seed are needed, numbers of at least 0")
    for arm in plan.arms:
        if arm not in ARMS or arm in HEADLINE:
            valid = ", ".join(a for a in ARMS if a not in HEADLINE)
            raise ConfigError(f"{where}: unknown arm {arm!r}; valid beside {', '.join(HEADLINE)}: {valid}")
        missing = [a for a in AFTER.get(arm, ()) if a not in plan.arms]
        if missing:
            raise ConfigError(f"{where}: arm {arm!r} needs arm {missing[0]!r}: it predicts before the distillation")
    if not (plan.temperature > 0 and 0 <= plan.kd_weight <= 1 and 0 < plan.smoothing < 1 and 0 <= plan.floor <= 1):
        raise ConfigError(f"{where}: temperature > 0, kd_weight and floor in [0, 1] and smoothing in (0, 1) are needed")
    for net in (plan.teacher, plan.student, plan.scout):
        _ = training_of(net)  # its checks name what is valid
        if net.folder:
            raise ConfigError(
                f"{where}: folder is for [own]: teacher = ..., students = [...]; a trained study starts untrained"
            )
        check_size(net.size(2, 2))
    for rate in (plan.teacher_pool_rate, plan.student_pool_rate):
        _ = Training(1, rate)
    plugins.find("texts", plan.text.prose)
    return plan
