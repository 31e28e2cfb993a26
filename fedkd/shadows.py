"""Shadow models: one training repeated on many random subsets of a pool, so that an attack knows both of its worlds.

Carlini et al., 2022, arXiv 2112.03570, section IV (shadow models on random subsets); Jagielski et al., 2023,
arXiv 2303.03446 (a shadow of a distilled model is the whole teacher-and-student pipeline). Every model draws its
members independently of all others, so what an attack knows of the shadows says nothing about the target's membership.

A model is trained as a client trains alone: ``num-server-rounds`` rounds of ``local-epochs`` epochs with the
experiment's optimizer, on the experiment's executor. One file per model, written atomically, in a folder named by the
plan's hash: what is there is not trained again, and any number of processes may share the work.
"""

from __future__ import annotations

import io
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedkd import plugins, rng, signals
from fedkd import setting as settings
from fedkd.config import Experiment, digest8, experiment_from, flatten, parse_args, typed
from fedkd.errors import ConfigError, RunError
from fedkd.jobs import cross_entropy
from fedkd.store import write_atomic
from fedkd.train import Job, to_tensors

FORMAT = 1
"""Version of a model's file and of every draw behind it; part of the hash."""

KEPT = ("target_logprob", "phi", "rank")
"""Signals of the pool that each model's file holds."""


@dataclass(frozen=True)
class Plan:
    """How many models, on what."""

    name: str
    """names the study; not part of the hash"""
    experiment: Experiment
    """data, model, optimizer, seed; its rounds are the rounds of local training"""
    pool: int
    """candidates: examples that a model may be trained on"""
    members: int
    """examples that each model is trained on, drawn from the pool"""
    models: int
    """models; an analysis takes one as the target and the others as its shadows"""
    pipeline: Literal["direct", "distilled"] = "direct"
    """"direct": the model trained on the members; "distilled": a student of that model, which never sees a member"""
    transfer: int = 0
    """distilled: examples, outside the pool, on which the student learns from the teacher's soft labels"""
    label_weight: float = 0.0
    """distilled: weight of cross-entropy on the transfer examples' true labels, in [0, 1]; the soft labels get the rest"""
    test: int = 2000
    """held-out examples on which each model's accuracy is reported"""

    def __post_init__(self) -> None:
        if not 1 <= self.members < self.pool:
            raise ConfigError(f"members = {self.members}; valid: at least 1 and fewer than the pool of {self.pool}")
        if self.models < 2:
            raise ConfigError(f"models = {self.models}; a target and a shadow are two models")
        if (self.pipeline == "distilled") != (self.transfer > 0):
            raise ConfigError('transfer is for pipeline = "distilled", which needs it: examples that the student learns on')
        if not 0 <= self.label_weight <= 1:
            raise ConfigError(f"label_weight = {self.label_weight}; valid: 0 to 1")

    @property
    def hash(self) -> str:
        """Eight hex digits over all that determines a model's file."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("name", "experiment", "models")}
        return digest8({"format": FORMAT, "experiment": self.experiment.hash8(), "seed": self.experiment.seed, **own})

    def member_rows(self, index: int) -> npt.NDArray[np.int64]:
        """[members] ascending rows of the pool on which model ``index`` is trained."""
        stream = rng.experiment(self.experiment.seed, "shadow members", client=index)
        return np.sort(stream.choice(self.pool, self.members, replace=False, shuffle=False)).astype(np.int64)


def read_plan(path: Path) -> Plan:
    """A TOML file with the fields of :class:`Plan` and a table ``[experiment]`` of run-config keys.

    Raises: ConfigError for a missing file, text that is not TOML, an unknown field, a wrong type or a value out of range.
    """
    try:
        whole = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"no plan {path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path.name} is not valid TOML: {error}") from None
    known = {f.name for f in fields(Plan)} - {"name"}
    unknown = sorted(set(whole) - known)
    if unknown:
        raise ConfigError(f"{path.name}: unknown field {unknown[0]!r}; valid fields: {', '.join(sorted(known))}")
    missing = sorted({"experiment", "pool", "members", "models"} - set(whole))
    if missing:
        raise ConfigError(f"{path.name}: {missing[0]} must be given")
    hints = get_type_hints(Plan)
    own = {k: typed(f"{path.name}: {k}", v, hints[k]) for k, v in whole.items() if k != "experiment"}
    return Plan(name=path.stem, experiment=experiment_from(flatten(whole["experiment"])), **own)


class Trainer:
    """Trains the models of one plan; data and net are opened once per process.

    Raises: ConfigError for a plug-in or a combination that does not exist, or a data set that is too small; DataError for
        missing or damaged files.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        experiment = replace(plan.experiment, method_name="local", method_args="")
        module = plugins.find("data", experiment.data_name)
        if not hasattr(module, "load"):
            raise ConfigError(f"data.name = {experiment.data_name!r} makes its rows per client; shadows need one table of rows")
        config = parse_args(experiment.data_args, module.Config, "data.args")
        spec, table = module.spec(config), module.load(config, experiment.data_root)
        needed = plan.pool + plan.transfer + plan.test
        if needed > len(table):
            raise ConfigError(f"pool + transfer + test = {needed}, but {experiment.data_name} has {len(table)} rows")
        rows = rng.experiment(experiment.seed, "shadow pool").permutation(len(table))[:needed]
        self.setting = settings.build(experiment, spec.shape, spec.classes)
        self.executor = self.setting.executor
        self._rows = np.split(rows, np.cumsum([plan.pool, plan.transfer]))
        self._table = table

    @cached_property
    def pool(self) -> tuple[Tensor, Tensor]:
        """(x [pool, *shape], y [pool]) of the candidates."""
        return self._tensors(0)

    @cached_property
    def transfer(self) -> tuple[Tensor, Tensor]:
        """(x, y) of the transfer examples."""
        return self._tensors(1)

    @cached_property
    def test(self) -> tuple[Tensor, Tensor]:
        """(x, y) of the held-out examples."""
        return self._tensors(2)

    def train(self, index: int) -> dict[str, npt.NDArray[Any]]:
        """Model ``index``'s file: members, signals of the pool, accuracies; the student's own for "distilled".

        ``target_logprob``, ``phi`` [pool] float32 and ``rank`` [pool] int32 as in :func:`fedkd.signals.classifier`;
        ``members`` [members] int32; ``accuracy_members``, ``accuracy_test`` in 0..1. Distilled pipelines add
        ``transfer_phi`` [transfer] (the student's, for proxy queries), ``teacher_phi`` [pool] and
        ``teacher_embedding`` [pool + transfer, d] float16.
        """
        members = torch.from_numpy(self.plan.member_rows(index))
        x, y = (t[members].clone() for t in self.pool)
        model = self._fit(index, "teacher", x, y, cross_entropy(self.setting), {})
        extra: dict[str, npt.NDArray[Any]] = {}
        if self.plan.pipeline == "distilled":
            teacher, (x, y) = model, self.transfer
            targets = {"teacher": self._logits(teacher, x)}
            model = self._fit(index, "student", x, y, self._distil, targets)
            everything = torch.cat([self.pool[0], x])
            extra = {
                "transfer_phi": self._signals(model, self.transfer)["phi"],
                "teacher_phi": self._signals(teacher, self.pool)["phi"],
                "teacher_embedding": self._embedding(teacher, everything),
            }
        own, held_out = self._signals(model, self.pool), self._signals(model, self.test)
        right = own["rank"] == 1
        return {
            "members": members.numpy().astype(np.int32),
            **{name: own[name] for name in KEPT},
            "accuracy_members": np.array(right[members.numpy()].mean()),
            "accuracy_test": np.array((held_out["rank"] == 1).mean()),
            **extra,
        }

    def _fit(self, index: int, role: str, x: Tensor, y: Tensor, loss: Any, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        s, e = self.setting, self.setting.experiment
        seed = rng.key(e.seed, f"shadow initial weights {role}", client=index)
        params = to_tensors(s.model.initial(seed), s.device)
        for number in range(s.rounds):
            stream = rng.experiment(e.seed, f"shadow batch order {role}", number, index)
            order = np.stack([stream.permutation(len(y)) for _ in range(e.local_epochs)])
            job = Job(
                client=index, params=params, trainable=s.model.parameter_names, x=x, y=y, loss=loss, order=order,
                learning_rate=s.learning_rate(number), momentum=e.momentum, weight_decay=e.weight_decay,
                batch_size=e.batch_size, targets=targets,
            )  # fmt: skip
            ((_, params),) = self.executor.run([job])
            if isinstance(params, Exception):
                raise RunError(f"shadow {index}: {params}") from params
        if not all(bool(torch.isfinite(value).all()) for value in params.values() if value.is_floating_point()):
            raise RunError(f"shadow {index}: the {role} diverged (weights are not finite); lower experiment.learning-rate")
        return params

    def _distil(self, params: Mapping[str, Tensor], x: Tensor, y: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        out = self.setting.model.forward(params, x, train=True)[1]
        soft = self.setting.distillation(out, targets["teacher"], None)
        weight = self.plan.label_weight
        return soft if weight == 0 else (1 - weight) * soft + weight * self.setting.supervised(out, None, y)

    def _logits(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self.setting.model.forward(params, part)[1] for part in x.split(signals.CHUNK)])

    def _signals(self, params: dict[str, Tensor], rows: tuple[Tensor, Tensor]) -> dict[str, npt.NDArray[Any]]:
        return signals.classifier(lambda x: self.setting.model.forward(params, x)[1], *rows)

    def _embedding(self, params: dict[str, Tensor], x: Tensor) -> npt.NDArray[np.float16]:
        last = self.setting.model.blocks
        with torch.no_grad():
            parts = [self.setting.model.forward(params, p, (last,))[0][last].flatten(1) for p in x.split(signals.CHUNK)]
        return torch.cat(parts).cpu().numpy().astype(np.float16)

    def _tensors(self, part: int) -> tuple[Tensor, Tensor]:
        rows, device = np.sort(self._rows[part]), self.setting.device
        x, y = np.asarray(self._table.x[rows]), np.asarray(self._table.y[rows], dtype=np.int64)
        return torch.tensor(x, device=device), torch.tensor(y, device=device)


@dataclass(frozen=True)
class Shadows:
    """The finished models of a plan."""

    plan: Plan
    inside: npt.NDArray[np.bool_]
    """[models, pool] whether that model was trained on that example"""
    signals: dict[str, npt.NDArray[Any]]
    """signal -> [models, ...]"""

    def target(self, index: int) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]], npt.NDArray[np.bool_]]:
        """(the target's own signals [pool], the others' [models - 1, pool], the others' membership [models - 1, pool])."""
        others = np.arange(len(self.inside)) != index
        own = {name: value[index] for name, value in self.signals.items()}
        return own, {name: value[others] for name, value in self.signals.items()}, self.inside[others]


def folder_of(plan: Plan, root: Path) -> Path:
    """Where the models of a plan lie: ``<root>/shadows-<hash>``."""
    return root / f"shadows-{plan.hash}"


def missing(plan: Plan, root: Path) -> list[int]:
    """Models that have no file yet."""
    return [i for i in range(plan.models) if not _file(plan, root, i).exists()]


def train_missing(plan: Plan, root: Path, share: tuple[int, int] = (0, 1)) -> Iterator[int]:
    """Train what is missing among the models of this process's share and yield each one's number.

    Args:
        share: (k, n): this process takes the models whose number is k modulo n.

    Raises: as :class:`Trainer`; RunError for a model that cannot be trained; OSError where a file cannot be written.
    """
    torch.set_num_threads(1)
    own = [i for i in missing(plan, root) if i % share[1] == share[0]]
    if not own:
        return
    trainer = Trainer(plan)
    folder_of(plan, root).mkdir(parents=True, exist_ok=True)
    for index in own:
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **trainer.train(index))
        write_atomic(_file(plan, root, index), content.getvalue())
        yield index


def load(plan: Plan, root: Path) -> Shadows:
    """The finished models. Raises: RunError where one is missing or damaged, saying which."""
    absent = missing(plan, root)
    if absent:
        raise RunError(f"{len(absent)} of {plan.models} models are not trained yet; the first is {absent[0]}")
    inside = np.zeros((plan.models, plan.pool), dtype=np.bool_)
    stacked: dict[str, list[npt.NDArray[Any]]] = {}
    for index in range(plan.models):
        try:
            with np.load(io.BytesIO(_file(plan, root, index).read_bytes()), allow_pickle=False) as file:
                values = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise RunError(f"{_file(plan, root, index)} is damaged ({error}); remove it and start again") from None
        inside[index, values.pop("members")] = True
        for name, value in values.items():
            stacked.setdefault(name, []).append(value)
    return Shadows(plan, inside, {name: np.stack(value) for name, value in stacked.items()})


def _file(plan: Plan, root: Path, index: int) -> Path:
    return folder_of(plan, root) / f"{index}.npz"
