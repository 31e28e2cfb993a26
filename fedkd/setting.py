"""One experiment, resolved: plug-ins found, their Configs parsed, the model built. Every method function gets this first."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, make_dataclass, replace
from functools import cached_property, lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fedkd import plugins, rng
from fedkd.config import AUTO, Experiment, parse_args, parse_table
from fedkd.errors import ConfigError
from fedkd.layers import LayeredModel
from fedkd.types import Arrays

Loss = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
"""(student logits, teacher logits, labels) -> [B]"""


@dataclass(frozen=True)
class Plugin:
    """A plug-in with its Config."""

    module: ModuleType
    config: Any


@dataclass(frozen=True)
class Setting:
    """What a method's functions may know about the run (never about the grid or the machine)."""

    experiment: Experiment
    module: ModuleType
    """the method plug-in"""
    method: Any
    """its Config"""
    model: LayeredModel
    distillation: Loss
    """the distillation loss with its Config bound"""
    supervised: Loss
    """cross-entropy on labels"""
    mechanism: Plugin
    """what is done to training, uploads and broadcasts (fedkd.outgoing); the first of several"""
    mechanisms: tuple[Plugin, ...]
    """all of them, from left to right"""
    sensitivity: Plugin
    """how likely a label is private, for mechanisms that ask"""
    device: torch.device

    def __hash__(self) -> int:
        """Of all fields, computed once: caches ask for it at every look-up."""
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, f.name) for f in fields(self)))

    @property
    def executor(self) -> ModuleType:
        """How one worker trains its cohort: the plug-in that ``executor.name`` names or, for "auto", fits the device."""
        name = self.experiment.executor_name
        return _automatic(self) if name == AUTO else plugins.find("executors", name)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.experiment.seed

    @property
    def rounds(self) -> int:
        """R."""
        return self.experiment.num_server_rounds

    @property
    def classes(self) -> int:
        """C."""
        return self.model.classes

    @property
    def cohort_size(self) -> int:
        """S_t = ceil(fraction * N), the clients drawn per round; at least one."""
        return max(1, math.ceil(self.experiment.fraction_train * self.experiment.num_clients - 1e-9))

    def learning_rate(self, round: int) -> float:
        """The client learning rate of a round: cosine to 5 % (0-based round t: lr * (.05 + .95 (1 + cos(pi t / R)) / 2))."""
        base = self.experiment.learning_rate
        if self.experiment.lr_schedule == "constant":
            return base
        return base * (0.05 + 0.95 * (1 + math.cos(math.pi * round / self.rounds)) / 2)

    def initial(self, client: int = -1) -> Arrays:
        """Initial weights from the seed, the same for all clients (``client`` = -1) or one client's own."""
        return _initial(self, client)

    def sample(self, round: int) -> list[int]:
        """The clients of a round: drawn without replacement by client id, ascending."""
        stream = rng.experiment(self.seed, "clients", round)
        n = self.experiment.num_clients
        if self.cohort_size == n:
            return list(range(n))
        return sorted(int(c) for c in stream.choice(n, self.cohort_size, replace=False, shuffle=False))


@lru_cache(maxsize=16)
def _automatic(setting: Setting) -> ModuleType:
    """``stacked`` on a GPU where it can run the setting, else ``loop``."""
    if setting.device.type == "cuda":
        stacked = plugins.find("executors", "stacked")
        with contextlib.suppress(ConfigError):
            stacked.check(setting)
            return stacked
    return plugins.find("executors", "loop")


@lru_cache(maxsize=16)
def _initial_cached(model: LayeredModel, key: int) -> Arrays:
    return model.initial(key)


def _initial(setting: Setting, client: int) -> Arrays:
    return dict(_initial_cached(setting.model, rng.key(setting.seed, "initial weights", client=client)))


def device_of(experiment: Experiment) -> torch.device:
    """Where clients train; the one place that decides. Raises: ConfigError where cuda is asked for and absent."""
    if experiment.device == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if experiment.device == "cuda":
        raise ConfigError('device = "cuda" but torch finds no GPU; use device = "auto" or "cpu"')
    return torch.device("cpu")


def build(experiment: Experiment, shape: tuple[int, ...], classes: int) -> Setting:
    """Resolve an experiment for data of the given shape.

    Raises: ConfigError for an unknown plug-in, a wrong Config field, or a combination that a method refuses.
    """
    module = plugins.find("methods", experiment.method_name)
    method = parse_args(experiment.method_args, module.Config, "method.args")
    model = build_model(experiment, shape, classes)
    mechanisms = _mechanisms(experiment)
    setting = Setting(
        experiment=experiment,
        module=module,
        method=method,
        model=model,
        distillation=_bind("losses", experiment.loss_name, experiment.loss_args, "loss.args", method),
        supervised=_bind("losses", "ce", "", "loss.args", None),
        mechanism=mechanisms[0],
        mechanisms=mechanisms,
        sensitivity=_plugin("sensitivity", experiment.sensitivity_name, experiment.sensitivity_args, "sensitivity.args"),
        device=device_of(experiment),
    )
    one_row = torch.zeros(1, classes)
    setting.distillation(one_row, one_row, None)  # a loss that needs labels says so here, not in round 1
    module.check(setting)
    from fedkd import outgoing  # it knows settings, and what several mechanisms may not do together

    outgoing.check(setting)
    if experiment.executor_name != AUTO and hasattr(setting.executor, "check"):
        setting.executor.check(setting)
    return setting


def build_model(experiment: Experiment, shape: tuple[int, ...], classes: int) -> LayeredModel:
    """The backbone of an experiment for inputs of ``shape``. Raises: ConfigError."""
    module = plugins.find("models", experiment.model_name)
    config = parse_args(experiment.model_args, module.Config, "model.args")
    with rng.torch_scope(0):  # layers draw as they are built; a run's weights come from `Setting.initial`
        return LayeredModel(module.build(config, shape, classes), shape, classes)


def _mechanisms(experiment: Experiment) -> tuple[Plugin, ...]:
    """The mechanism, or the several that ``mechanisms.names`` lists. Raises: ConfigError."""
    names = [name.strip() for name in experiment.mechanisms_names.split(",") if name.strip()]
    one = (experiment.mechanism_name, experiment.mechanism_args)
    if not names:
        if experiment.mechanisms_args:
            raise ConfigError("mechanisms.args is set but mechanisms.names is not; with one mechanism use mechanism.args")
        return (_plugin("mechanisms", *one, "mechanism.args"),)
    if one != ("none", ""):
        raise ConfigError("mechanism.name and mechanisms.names are both set; valid: one of them")
    modules = {name: plugins.find("mechanisms", name) for name in names}
    if len(modules) < len(names):
        raise ConfigError(f"mechanisms.names = {experiment.mechanisms_names!r} names a mechanism twice")
    tables = make_dataclass("Tables", [(n, dict, dataclasses.field(default_factory=dict)) for n in names])
    given: Any = parse_args(experiment.mechanisms_args, tables, "mechanisms.args")
    return tuple(Plugin(m, parse_table(getattr(given, n), m.Config, f"mechanisms.args: {n}")) for n, m in modules.items())


def _plugin(slot: str, name: str, args: str, where: str) -> Plugin:
    module = plugins.find(slot, name)
    return Plugin(module, parse_args(args, module.Config, where))


def _bind(slot: str, name: str, args: str, where: str, method: Any) -> Loss:
    """The loss with its Config; a method that has a field of the same name (``temperature``) is the one that sets it."""
    module = plugins.find(slot, name)
    config = parse_args(args, module.Config, where)
    shared = {"temperature": "temperature", "squared": "temperature_squared"}
    own = {f.name: f.default for f in fields(config)}
    for field, source in shared.items():
        if method is not None and field in own and hasattr(method, source):
            if getattr(config, field) != own[field]:
                raise ConfigError(f"{where}: set {source} in method.args, not {field} in {where}")
            config = replace(config, **{field: getattr(method, source)})

    def loss(student: Tensor, teacher: Tensor | None, labels: Tensor | None) -> Tensor:
        return module.loss(config, student, teacher, labels)  # type: ignore[no-any-return]

    return loss
