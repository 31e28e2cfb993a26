"""Flat run config -> frozen dataclasses, with one validator: every error lists the valid keys or values.

Flower's run config takes scalars only and refuses undeclared keys, so each plug-in slot has two keys, ``<slot>.name``
and ``<slot>.args`` (the inside of a TOML inline table as a string).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from fedkd.errors import ConfigError
from fedkd.verdict import banned_in

T = TypeVar("T")
Scalar = bool | int | float | str


@dataclass(frozen=True)
class Experiment:
    """Every run-config key, once. ``pyproject.toml`` declares the same keys with the same defaults (a test)."""

    name: str = ""
    """name of the configuration: the stem of its file, the folder of its runs"""
    label: str = ""
    """how tables and figures call this run; empty = the name"""
    seed: int = 0
    """seed of everything that must repeat: partition, initial weights, client sampling, batch order"""
    seeds: str = ""
    """several seeds in one start of Flower and Ray, e.g. "0,1,2"; empty = `seed` alone"""
    variants: str = ""
    """several runs in one start of Flower and Ray: a JSON list of tables of keys to change; empty = this run alone"""
    num_server_rounds: int = 40
    """rounds, at least 1"""
    num_clients: int = 20
    """population: data holders, not Flower nodes"""
    fraction_train: float = 1.0
    """share of the population drawn per round, in (0, 1]"""
    local_epochs: int = 1
    """epochs of local training per round"""
    batch_size: int = 16
    """samples per local step"""
    learning_rate: float = 0.05
    """client SGD learning rate in round 0"""
    momentum: float = 0.9
    """client SGD momentum; the buffer is reset every round"""
    weight_decay: float = 1e-5
    """client SGD weight decay"""
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    """learning rate over rounds: cosine to 5 %, or constant; the same for every method compared"""
    score: Literal["after_local", "after_average"] = "after_local"
    """score clients after local training (before upload), or the averaged model with the next message"""
    method_name: str = "fedd2s"
    """a file of fedkd/methods"""
    method_args: str = ""
    """its Config, e.g. 'schedule = "late"'"""
    model_name: str = "cnn_small"
    """a file of fedkd/models"""
    model_args: str = ""
    """its Config"""
    loss_name: str = "kl"
    """the distillation loss (a file of fedkd/losses) of methods that distil"""
    loss_args: str = ""
    """its Config"""
    mechanism_name: str = "none"
    """what is done to uploads and broadcasts before they leave (a file of fedkd/mechanisms)"""
    mechanism_args: str = ""
    """its Config"""
    mechanisms_names: str = ""
    """several mechanisms from left to right, e.g. "dpsgd,permute", instead of mechanism.name"""
    mechanisms_args: str = ""
    """their Configs by name, e.g. 'dpsgd = {clip = 1.0}, permute = {}'"""
    metrics: Literal["sent", "home"] = "sent"
    """"sent": scores and K_n travel, K_n weighs means; "home": they stay on the client's disk, every client weighs the same"""
    sensitivity_name: str = "constant"
    """how likely a label is private, for mechanisms that ask (a file of fedkd/sensitivity that reads arrays)"""
    sensitivity_args: str = ""
    """its Config"""
    executor_name: str = "auto"
    """how one worker trains its cohort (a file of fedkd/executors); "auto" = loop on CPU, stacked on a GPU where it can"""
    data_name: str = "digits"
    """a file of fedkd/data"""
    data_args: str = ""
    """its Config"""
    data_root: str = ""
    """folder that holds the data set's files; empty = the usual places"""
    max_samples: int = 0
    """samples drawn from the data set before partitioning; 0 = all"""
    partition_name: Literal["iid", "dirichlet", "pathological", "natural"] = "dirichlet"
    """how samples are spread over clients"""
    partition_args: str = ""
    """its Config, e.g. 'alpha = 0.5'"""
    min_client_samples: int = 10
    """the partition is redrawn until each client has at least this many samples"""
    extra_test: int = 0
    """unseen test samples per client, drawn with the client's own label mix from what no client holds"""
    public_samples: int = 0
    """rows of the public transfer set, moved out before partition and training (methods that exchange logits on it)"""
    audit_holdout: float = 0.0
    """probability with which an example is moved out before partition and training (known non-members)"""
    audit_canaries: int = 0
    """label canaries: examples with a random wrong label, each in or out by a fair coin"""
    record: Literal["", "messages"] = ""
    """"messages" writes every upload and broadcast to transcript/ (for attacks on channels)"""
    report: bool = True
    """write report.html at the end of the run"""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """where clients train; "auto" = cuda where there is one"""
    gpus_per_worker: float = 0.0
    """fraction of a GPU that one Ray worker asks for"""
    cpus_per_worker: float = 1.0
    """CPUs that one Ray worker asks for"""
    num_nodes: int = 2
    """Flower nodes (SuperNodes); each hosts num-clients / num-nodes clients in simulation"""
    workers: int = 2
    """processes or Ray actors that train"""
    on_failure: Literal["abort", "skip", "retry"] = "abort"
    """what a failed client does to the run"""
    retries: int = 1
    """how often a failed client is asked again with on-failure = "retry" """
    max_failures: int = 0
    """client-rounds that may fail before a finished run ends with exit code 3"""
    min_replies: float = 1.0
    """share of the sampled clients whose reply (a result or a failure record) must arrive"""
    node_wait_s: float = 120.0
    """seconds to wait for the nodes"""
    round_timeout_s: float = 3600.0
    """seconds to wait for the replies of one round"""
    max_upload_mb: float = 64.0
    """a client's record above this size is refused"""
    max_message_mb: float = 256.0
    """messages above this size are split by clients"""
    output: str = ""
    """absolute folder for run folders; empty = $FEDKD_OUTPUT"""
    state_root: str = ""
    """absolute folder for client states and prepared data; empty = <output>/state"""
    resume: bool = False
    """go on from the last committed round of this run's folder"""
    overwrite: bool = False
    """replace a finished run's folder"""
    trusted: bool = False
    """simulation: failure records may carry the full traceback to the server"""
    provenance: str = ""
    """git commit of the sources, set by the run wrapper"""
    command: str = ""
    """the command line that repeats this run, set by the run wrapper"""

    def __post_init__(self) -> None:
        _check_ranges(self)

    @property
    def rounds(self) -> int:
        """R, the number of rounds."""
        return self.num_server_rounds

    @property
    def title(self) -> str:
        """The name in figures and tables."""
        return self.label or self.name or self.method_name

    def seed_list(self) -> list[int]:
        """Seeds to run, in order. Raises: ConfigError where ``seeds`` is not a list of different integers."""
        if not self.seeds.strip():
            return [self.seed]
        try:
            seeds = [int(part) for part in self.seeds.split(",")]
        except ValueError:
            raise ConfigError(f'seeds = {self.seeds!r} is not a list of integers such as "0,1,2"') from None
        if len(set(seeds)) < len(seeds):
            raise ConfigError(f"seeds = {self.seeds!r} names a seed twice; each seed has one run folder")
        return seeds

    def runs(self) -> list[Experiment]:
        """Each run of this start, in order: every variant with every seed. A run's own `seeds` and `variants` are empty.

        Raises: ConfigError where ``variants`` is not a JSON list of tables of known keys, or changes what one start fixes.
        """
        variants = _variants_of(self.variants) if self.variants.strip() else [{}]
        base = {**self.to_run_config(), "variants": ""}
        changed = [experiment_from({**base, **v}) if v else dataclasses.replace(self, variants="") for v in variants]
        return [dataclasses.replace(e, seed=s, seeds="") for e in changed for s in e.seed_list()]

    def to_run_config(self) -> dict[str, Scalar]:
        """The flat kebab-case form that Flower takes."""
        return {key_of(f.name): getattr(self, f.name) for f in dataclasses.fields(self)}

    def hash8(self) -> str:
        """Eight hex digits over the keys that determine the result (not where or how fast it runs, not the seed)."""
        return digest8(determining(self.to_run_config()))


_SLOTS = ("method", "model", "loss", "mechanism", "mechanisms", "sensitivity", "executor", "data", "partition", "audit")

NOT_IN_HASH = frozenset([
    "name", "label", "seed", "seeds", "variants", "data.root", "record", "gpus-per-worker", "cpus-per-worker", "num-nodes",
    "workers", "on-failure", "retries", "max-failures", "min-replies", "node-wait-s", "round-timeout-s", "max-upload-mb",
    "max-message-mb", "output", "state-root", "resume", "report", "overwrite", "trusted", "provenance", "command",
])  # fmt: skip
"""Keys that say how a run travels and what it tolerates, never what it computes."""

LATER = {
    "mechanism.name": "none", "mechanism.args": "", "mechanisms.names": "", "mechanisms.args": "", "metrics": "sent",
    "sensitivity.name": "constant", "sensitivity.args": "", "public-samples": 0,
}  # fmt: skip
"""Keys that older runs do not have, with their defaults: at these they are left out, so that old hashes stay as they are."""

AUTO = "auto"
"""The executor that fits the device. On CPU that is ``loop``, and both names have one hash."""

ONE_START = frozenset(["num-nodes", "workers", "cpus-per-worker", "gpus-per-worker", "node-wait-s", "seeds", "variants"])
"""Keys that one start of Flower and Ray fixes: no variant may change them."""


def together(runs: Sequence[Experiment]) -> Experiment:
    """One experiment whose ``runs()`` are these, so that they share one start of Flower and Ray.

    Raises: ConfigError where two differ in what one start fixes.
    """
    first = runs[0]
    if len(runs) == 1:
        return first
    base = first.to_run_config()
    variants = [{k: v for k, v in run.to_run_config().items() if v != base[k]} for run in runs]
    return dataclasses.replace(first, variants=json.dumps(variants))


def _variants_of(text: str) -> list[dict[str, Scalar]]:
    try:
        variants = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"variants is not JSON: {error}") from None
    if not isinstance(variants, list) or not variants or not all(isinstance(v, dict) for v in variants):
        raise ConfigError('variants must be a JSON list of tables, e.g. [{"seed": 0}, {"seed": 1, "learning-rate": 0.1}]')
    for variant in variants:
        fixed = sorted(set(variant) & ONE_START)
        if fixed:
            raise ConfigError(
                f"a variant cannot change {fixed[0]}: one start of Flower and Ray fixes {', '.join(sorted(ONE_START))}"
            )
    return variants


def key_of(field_name: str) -> str:
    """``method_name`` -> ``method.name``; ``num_clients`` -> ``num-clients``."""
    head, _, rest = field_name.partition("_")
    return f"{head}.{rest.replace('_', '-')}" if head in _SLOTS and rest else field_name.replace("_", "-")


def determining(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a flat run config that determine its result: what the hash covers."""
    kept = {k: v for k, v in values.items() if k not in NOT_IN_HASH and not (k in LATER and v == LATER[k])}
    if kept.get("executor.name") == AUTO and kept.get("device") != "cuda":
        kept["executor.name"] = "loop"
    return kept


def digest8(values: Mapping[str, Any]) -> str:
    """First eight hex digits of sha256 over canonical JSON."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def experiment_from(run_config: Mapping[str, Any]) -> Experiment:
    """Build an Experiment from flat kebab-case keys.

    Raises: ConfigError for an unknown key, a wrong type or a value out of range, listing what is valid.
    """
    names = {key_of(f.name): f.name for f in dataclasses.fields(Experiment)}
    unknown = sorted(set(run_config) - set(names))
    if unknown:
        raise ConfigError(f"unknown key {unknown[0]!r}; valid keys: {', '.join(sorted(names))}")
    hints = typing.get_type_hints(Experiment)
    values = {names[k]: typed(k, v, hints[names[k]]) for k, v in run_config.items()}
    return Experiment(**values)


def read_config(path: Path) -> dict[str, Any]:
    """Flat keys of a TOML file (nested tables become dotted keys).

    Raises: ConfigError where the file is missing, is not TOML, or names itself otherwise than its stem.
    """
    if not path.is_file():
        near = sorted(p.stem for p in path.parent.glob("*.toml")) if path.parent.is_dir() else []
        raise ConfigError(f"no configuration {path}; here: {', '.join(near) or 'none'}")
    try:
        flat = flatten(tomllib.loads(path.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path.name} is not valid TOML: {error}") from None
    if flat.setdefault("name", path.stem) != path.stem:
        raise ConfigError(f"{path.name} says name = {flat['name']!r}; the name must equal the file stem {path.stem!r}")
    return flat


def parse_args(text: str, config: type[T], where: str) -> T:
    """The inside of a TOML inline table -> ``config``; ``where`` names the key in errors, e.g. "method.args".

    Raises: ConfigError for text that is not TOML, an unknown field or a wrong type, listing the fields with defaults.
    """
    try:
        whole = tomllib.loads(f"x = {{ {text} }}")
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} = {text!r} is not the inside of a TOML inline table: {error}") from None
    if set(whole) != {"x"}:
        raise ConfigError(f"{where} = {text!r} is more than the inside of one TOML inline table")
    return parse_table(whole["x"], config, where)


def parse_table(table: Mapping[str, Any], config: type[T], where: str) -> T:
    """A table -> the dataclass ``config``; ``where`` names the table in errors.

    Raises: ConfigError for an unknown or missing field or a wrong type, listing the fields with defaults.
    """
    fields = {f.name: f for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    unknown = sorted(set(table) - set(fields))
    if unknown:
        raise ConfigError(f"{where}: unknown field {unknown[0]!r}; valid fields: {_known(fields.values())}")
    needed = [n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING and n not in table]
    if needed:
        raise ConfigError(f"{where}: {needed[0]} must be given; fields: {_known(fields.values())}")
    hints = typing.get_type_hints(config)
    return config(**{k: typed(f"{where}: {k}", v, hints[k]) for k, v in table.items()})


def _known(fields: Iterable[dataclasses.Field[Any]]) -> str:
    shown = (f.name if f.default is dataclasses.MISSING else f"{f.name} = {f.default!r}" for f in fields)
    return ", ".join(shown) or "none"


def typed(where: str, value: Any, hint: Any) -> Any:
    """``value`` as ``hint`` asks (int passes for float; a list becomes a tuple). Raises: ConfigError."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices or type(value) is not type(choices[choices.index(value)]):
            raise ConfigError(f"{where} = {value!r}; valid values: {', '.join(map(repr, choices))}")
        return value
    if origin in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            try:
                return typed(where, value, option)
            except ConfigError:
                continue
        raise ConfigError(f"{where} = {value!r} has the wrong type; expected {_spell(hint)}")
    if (hint is tuple or origin is tuple) and isinstance(value, list | tuple):
        return tuple(tuple(v) if isinstance(v, list) else v for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise ConfigError(f"{where} = {value!r} has the wrong type; expected {_spell(hint)}")


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


def _spell(hint: Any) -> str:
    return getattr(hint, "__name__", None) or str(hint).replace("typing.", "")


def _check_ranges(e: Experiment) -> None:
    at_least = {
        "num_server_rounds": 1, "num_clients": 1, "local_epochs": 0, "batch_size": 1, "max_samples": 0,
        "min_client_samples": 1, "extra_test": 0, "audit_canaries": 0, "public_samples": 0, "num_nodes": 1, "workers": 1,
        "retries": 0, "max_failures": 0, "momentum": 0, "weight_decay": 0, "gpus_per_worker": 0,
    }  # fmt: skip
    for name, low in at_least.items():
        if not getattr(e, name) >= low:
            raise ConfigError(f"{key_of(name)} = {getattr(e, name)}; it must be at least {low}")
    for name in ("learning_rate", "node_wait_s", "round_timeout_s", "max_upload_mb", "max_message_mb", "cpus_per_worker"):
        if not 0 < getattr(e, name) < float("inf"):
            raise ConfigError(f"{key_of(name)} = {getattr(e, name)}; it must be above 0")
    if not 0 < e.fraction_train <= 1:
        raise ConfigError(f"fraction-train = {e.fraction_train}; valid: above 0, at most 1")
    for name in ("audit_holdout", "min_replies"):
        if not 0 <= getattr(e, name) <= 1:
            raise ConfigError(f"{key_of(name)} = {getattr(e, name)}; valid: 0 to 1")
    if e.momentum >= 1:
        raise ConfigError(f"momentum = {e.momentum}; valid: 0 up to, not including, 1")
    for name in ("name", "label"):  # a report would be refused after the run
        if said := banned_in(getattr(e, name)):
            raise ConfigError(f"{name} = {getattr(e, name)!r}; valid: text without {', '.join(map(repr, said))}")
    e.seed_list()
    if e.variants.strip():
        e.runs()
