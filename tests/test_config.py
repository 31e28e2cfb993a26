"""The run configuration: types, ranges, hashes, and that pyproject.toml declares exactly what Experiment has."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd import plugins
from fedkd.config import Experiment, digest8, experiment_from, key_of, parse_args, read_config, together, typed
from fedkd.errors import ConfigError
from fedkd.partition import CONFIGS as PARTITIONS
from fedkd.plugins import field_docs

ROOT = Path(__file__).resolve().parents[1]
FIELDS = {f.name: f for f in dataclasses.fields(Experiment)}


@dataclass(frozen=True)
class Sample:
    """A Config with one field of each kind."""

    flag: bool = False
    count: int = 1
    rate: float = 0.5
    word: str = "a"
    sizes: tuple[int, ...] = (1,)
    kind: Literal["x", "y", 3] = "x"
    either: str | tuple[Any, ...] = "auto"


# ----- typed ---------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (True, bool, True),
        (3, int, 3),
        (3, float, 3.0),
        (0.5, float, 0.5),
        ("a", str, "a"),
        ([1, 2], tuple[int, ...], (1, 2)),
        ([[3, 0.5], [1, 1.0]], tuple[Any, ...], ((3, 0.5), (1, 1.0))),
        ((1,), tuple, (1,)),
        ("x", Literal["x", "y"], "x"),
        (3, Literal["x", 3], 3),
        ("auto", str | tuple[Any, ...], "auto"),
        (["L"], str | tuple[Any, ...], ("L",)),
    ],
)
def test_typed_accepts(value: Any, hint: Any, expected: Any) -> None:
    got = typed("key", value, hint)
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint", "said"),
    [
        (1, bool, "expected bool"),
        (True, int, "expected int"),
        (True, float, "expected float"),
        (0.5, int, "expected int"),
        ("3", int, "expected int"),
        (3, str, "expected str"),
        ("x", tuple[int, ...], "expected tuple"),
        ("z", Literal["x", "y"], "valid values: 'x', 'y'"),
        (True, Literal["x", 1], "valid values: 'x', 1"),
        (["x"], Literal["x", "y"], "valid values"),
        (3, str | tuple[Any, ...], "expected str | tuple"),
    ],
)
def test_typed_refuses_with_what_is_valid(value: Any, hint: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        typed("some-key", value, hint)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"some-key = {value!r}")


# ----- parse_args ---------------------------------------------------------------
def test_parse_args_reads_the_inside_of_an_inline_table() -> None:
    text = 'flag = true, count = 2, rate = 1, word = "b, c = 3", sizes = [4, 5], kind = 3, either = [["L", 0.5]]'
    got = parse_args(text, Sample, "method.args")
    assert got == Sample(True, 2, 1.0, "b, c = 3", (4, 5), 3, (("L", 0.5),))
    assert parse_args("", Sample, "method.args") == Sample()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("count = ", "not the inside of a TOML inline table"),
        ("count = 1, count = 2", "not the inside of a TOML inline table"),
        ("count = 1 }\nother = { rate = 2", "more than the inside of one TOML inline table"),
        ("cuont = 1", "unknown field 'cuont'; valid fields: flag = False, count = 1, rate = 0.5"),
        ("count = 1.5", "method.args: count = 1.5 has the wrong type; expected int"),
        ('kind = "z"', "method.args: kind = 'z'; valid values: 'x', 'y', 3"),
    ],
)
def test_parse_args_refuses(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_args(text, Sample, "method.args")
    assert said in str(caught.value)


def test_a_config_without_fields_says_so() -> None:
    @dataclass(frozen=True)
    class Empty:
        """Nothing to choose."""

    with pytest.raises(ConfigError, match="valid fields: none"):
        parse_args("a = 1", Empty, "data.args")


# ----- experiment_from and read_config ---------------------------------------------------------------
def test_experiment_from_reads_dotted_and_kebab_keys() -> None:
    e = experiment_from({"method.name": "local", "num-server-rounds": 7, "learning-rate": 1, "partition.args": "alpha = 1.0"})
    assert (e.method_name, e.num_server_rounds, e.rounds, e.learning_rate) == ("local", 7, 7, 1.0)


def test_an_unknown_key_lists_every_valid_one() -> None:
    with pytest.raises(ConfigError) as caught:
        experiment_from({"num-rounds": 3})
    assert "unknown key 'num-rounds'" in str(caught.value)
    assert all(key_of(name) in str(caught.value) for name in FIELDS)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("num-server-rounds", "3", "expected int"),
        ("report", 1, "expected bool"),
        ("score", "before", "valid values: 'after_local', 'after_average'"),
        ("num-server-rounds", 0, "at least 1"),
        ("num-clients", 0, "at least 1"),
        ("local-epochs", -1, "at least 0"),
        ("batch-size", 0, "at least 1"),
        ("workers", 0, "at least 1"),
        ("num-nodes", 0, "at least 1"),
        ("max-failures", -1, "at least 0"),
        ("momentum", 1.0, "not including, 1"),
        ("momentum", float("nan"), "at least 0"),
        ("learning-rate", 0.0, "above 0"),
        ("learning-rate", float("inf"), "above 0"),
        ("round-timeout-s", float("nan"), "above 0"),
        ("fraction-train", 0.0, "above 0, at most 1"),
        ("fraction-train", 1.01, "above 0, at most 1"),
        ("min-replies", 1.5, "valid: 0 to 1"),
        ("audit.holdout", -0.1, "valid: 0 to 1"),
        ("seeds", "0,x", 'such as "0,1,2"'),
        ("seeds", "0,1,0", "names a seed twice"),
        ("label", "Safe averaging", "text without 'safe'"),
    ],
)
def test_values_out_of_range_name_the_key(key: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        experiment_from({key: value})
    assert key in str(caught.value)
    assert said in str(caught.value)


def test_seed_list_and_title() -> None:
    assert Experiment(seed=4).seed_list() == [4]
    assert Experiment(seed=4, seeds="2, 0,1").seed_list() == [2, 0, 1]
    assert Experiment(label="L", name="n").title == "L"
    assert Experiment(name="n").title == "n"
    assert Experiment(method_name="local").title == "local"


def test_read_config_flattens_tables_and_takes_the_name_from_the_stem(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text('seed = 3\n[method]\nname = "local"\n')
    assert read_config(path) == {"seed": 3, "method.name": "local", "name": "one"}


def test_read_config_refuses(tmp_path: Path) -> None:
    (tmp_path / "good.toml").write_text("")
    with pytest.raises(ConfigError, match="here: good"):
        read_config(tmp_path / "goood.toml")
    with pytest.raises(ConfigError, match="here: none"):
        read_config(tmp_path / "nowhere" / "x.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(ConfigError, match=r"bad\.toml is not valid TOML"):
        read_config(tmp_path / "bad.toml")
    (tmp_path / "other.toml").write_text('name = "another"')
    with pytest.raises(ConfigError, match="must equal the file stem 'other'"):
        read_config(tmp_path / "other.toml")


# ----- the declared keys ---------------------------------------------------------------
def test_pyproject_declares_exactly_the_keys_and_defaults_of_experiment() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert declared == Experiment().to_run_config()
    assert {k: type(v) for k, v in declared.items()} == {k: type(v) for k, v in Experiment().to_run_config().items()}


def test_run_config_round_trip() -> None:
    e = Experiment(method_args='schedule = "late"', seeds="1,2", fraction_train=0.25, overwrite=True, audit_canaries=3)
    flat = e.to_run_config()
    assert all(isinstance(v, bool | int | float | str) for v in flat.values())
    assert experiment_from(flat) == e


def test_runs_are_every_variant_with_every_seed() -> None:
    e = Experiment(seeds="4,5", learning_rate=0.5, variants='[{"name": "a", "learning-rate": 0.25}, {"name": "b", "seed": 9}]')
    got = [(r.name, r.learning_rate, r.seed, r.seeds, r.variants) for r in e.runs()]
    assert got == [("a", 0.25, 4, "", ""), ("a", 0.25, 5, "", ""), ("b", 0.5, 4, "", ""), ("b", 0.5, 5, "", "")]
    assert [r.seed for r in Experiment(seed=3).runs()] == [3]


def test_runs_put_together_come_apart_as_they_were() -> None:
    runs = [
        Experiment(name="a", seed=1, method_args='schedule = "late"', output="/x"),
        Experiment(name="b", seed=2, method_name="fedavg", output="/x", resume=True),
        Experiment(name="a", seed=3, output="/x", command="python -m simulations run 'it''s'"),
    ]
    whole = together(runs)
    assert whole.runs() == runs
    assert experiment_from(whole.to_run_config()).runs() == runs
    assert together(runs[:1]) == runs[0]


def test_runs_that_need_different_starts_are_refused() -> None:
    with pytest.raises(ConfigError, match="a variant cannot change num-nodes: one start of Flower and Ray fixes"):
        together([Experiment(), Experiment(num_nodes=4)])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "variants is not JSON"),
        ("[]", "a JSON list of tables"),
        ('{"seed": 1}', "a JSON list of tables"),
        ("[1]", "a JSON list of tables"),
        ('[{"sed": 1}]', "unknown key 'sed'"),
        ('[{"seed": "1"}]', "expected int"),
        ('[{"seeds": "1,2"}]', "a variant cannot change seeds"),
        ('[{"learning-rate": 0.0}]', "must be above 0"),
    ],
)
def test_a_wrong_list_of_variants_is_refused_at_once(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        Experiment(variants=text)


# ----- hash ---------------------------------------------------------------
TRAVEL = {
    "name", "label", "seed", "seeds", "variants", "data_root", "record", "gpus_per_worker", "cpus_per_worker", "num_nodes",
    "workers",
    "on_failure", "retries", "max_failures", "min_replies", "node_wait_s", "round_timeout_s", "max_upload_mb",
    "max_message_mb", "output", "state_root", "resume", "report", "overwrite", "trusted", "provenance", "command",
}  # fmt: skip
"""Where, how fast and how patiently a run goes; its result is the same (seams, section 2)."""

OTHER = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v / 2 + 0.125, str: lambda v: f"{v}1"}
LITERALS = {"lr_schedule": "constant", "score": "after_average", "partition_name": "iid", "record": "messages",
            "device": "cuda", "on_failure": "skip", "seeds": "7,8", "variants": '[{"seed": 3}]'}  # fmt: skip


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_exactly_the_result_determining_keys_are_in_the_hash(name: str) -> None:
    plain = Experiment()
    value = getattr(plain, name)
    changed = dataclasses.replace(plain, **{name: LITERALS.get(name, OTHER[type(value)](value))})
    assert getattr(changed, name) != value
    assert (changed.hash8() == plain.hash8()) == (name in TRAVEL)


def test_hash_is_canonical_json() -> None:
    # sha256 of '{"a":1,"b":"\\u00e9"}', computed with coreutils
    assert digest8({"b": "é", "a": 1}) == digest8({"a": 1, "b": "é"}) == "6071e7aa"


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans(), max_size=4))
def test_digest8_ignores_the_order_of_keys(values: dict[str, Any]) -> None:
    assert digest8(values) == digest8(dict(reversed(values.items())))


# ----- docstrings ---------------------------------------------------------------
def _configs() -> dict[str, type]:
    found: dict[str, type] = {"Experiment": Experiment, **{f"partition.{n}": c for n, c in PARTITIONS.items()}}
    for slot in plugins.SLOTS:
        for name in plugins.available(slot):
            config = getattr(plugins.find(slot, name), "Config", None)
            if config is not None:
                found[f"{slot}.{name}"] = config
    return found


@pytest.mark.parametrize(("where", "config"), sorted(_configs().items()))
def test_every_field_has_a_docstring(where: str, config: type) -> None:
    docs = field_docs(config)
    assert config.__doc__
    missing = [f.name for f in dataclasses.fields(config) if not docs.get(f.name)]
    assert not missing, f"{where}: no docstring under {missing}"
    assert set(docs) <= {f.name for f in dataclasses.fields(config)}


def test_field_docs_skips_what_is_not_a_docstring_of_a_field() -> None:
    @dataclass
    class Odd:
        """Odd."""

        a: int = 1
        b: int = 2
        """of b"""
        c = 3
        """of no field"""

    assert field_docs(Odd) == {"b": "of b"}


def test_a_field_without_a_default_must_be_given() -> None:
    """delta of the one-run audit has no default on purpose: no bound without it."""
    from fedkd.attacks import one_run

    with pytest.raises(ConfigError, match="delta must be given"):
        parse_args("", one_run.Config, "attacks.args")
    assert parse_args("delta = 1e-5", one_run.Config, "attacks.args").delta == 1e-5
