"""The mechanism "none": no hook at all, and a run without the keys is the same run."""

from __future__ import annotations

from pathlib import Path

from fedkd.config import Experiment, determining, experiment_from
from fedkd.mechanisms import none
from tests.small_runs import lines, run, small, summary


def test_it_has_no_hook() -> None:
    assert not [hook for hook in ("upload", "broadcast", "notes") if hasattr(none, hook)]


def test_defaults_are_outside_the_hash_so_that_older_runs_keep_theirs() -> None:
    values = Experiment().to_run_config()
    older = {k: v for k, v in values.items() if not k.startswith(("mechanism.", "sensitivity."))}
    assert determining(older) == determining(values)
    assert experiment_from(older).hash8() == Experiment().hash8()
    assert Experiment(mechanism_name="swing").hash8() != Experiment().hash8()


def test_a_runs_files_say_nothing_of_mechanisms(tmp_path: Path) -> None:
    folder = run(small(tmp_path, method_name="fedd2s"))
    assert "mechanism" not in summary(folder)
    assert not any("charges" in row for row in lines(folder, "clients"))
    assert not [p for p in (tmp_path / "state").rglob("*") if p.name in ("secret", "ledger.jsonl")]
