"""Looking before a run: each check finds what it is there for, and names the fix."""

from __future__ import annotations

import socket
import tempfile
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedkd.native import compiler
from simulations import doctor
from simulations.doctor import examine
from tests.small_runs import small
from tests.toy import has_compiler


def found(check: str, **arguments: Any) -> dict[str, Any]:
    (finding,) = [f for f in examine(**arguments) if f["check"] == check]
    return finding


def test_every_bad_finding_names_a_fix(tmp_path: Path) -> None:
    findings = examine(small(tmp_path))
    assert len({f["check"] for f in findings}) == len(findings)
    assert all(f["fix"] for f in findings if not f["ok"])
    wanted = {"python", "flwr", "torch", "torch pair", "port", "disk", "RAY_ADDRESS", "ray cluster file", "output", "data",
              "configuration", "model", "workers", "nodes", "FLWR_HOME", "cpus", "native step"}  # fmt: skip
    assert wanted <= {f["check"] for f in findings}


@pytest.mark.parametrize(
    ("have", "least", "good"),
    [
        ("1.41.0", "1.41", True),
        ("1.40.9", "1.41", False),
        ("2.0", "1.41", True),
        ("2.14.1+cpu", "2.6", True),
        ("0.9", "0.21", False),
    ],
)
def test_versions_are_compared_as_numbers(have: str, least: str, good: bool) -> None:
    assert doctor._at_least(have, least) is good


def test_an_old_or_missing_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "flwr-datasets":
            raise metadata.PackageNotFoundError(name)
        return "1.0" if name == "torch" else real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    assert found("torch") == {"check": "torch", "ok": False, "detail": "1.0", "fix": "pip install 'torch>=2.6'"}
    assert found("flwr-datasets")["detail"] == "not installed"


def test_a_port_in_use_and_a_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finding = found("port", port=port)
        assert not finding["ok"]
        assert str(port) in finding["detail"]
        assert "0 for any free one" in finding["fix"]
    assert found("port")["ok"]


def test_what_makes_flwr_run_hang_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    assert found("ray cluster file")["ok"]
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("")
    assert not found("ray cluster file")["ok"]
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert found("RAY_ADDRESS")["ok"]


def test_the_native_steps_compiler_is_told_and_needed_only_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert has_compiler() == found("native step")["detail"].startswith("compiles with ")
    asked = small(tmp_path, executor_name="native")
    assert found("configuration", experiment=asked)["ok"] == has_compiler()
    compiler.library.cache_clear()
    monkeypatch.setenv("CC", "no-such-compiler")
    finding = found("native step")
    assert finding["ok"]
    assert "'no-such-compiler'" in finding["detail"]
    assert not found("configuration", experiment=asked)["ok"]
    assert found("configuration", experiment=small(tmp_path))["ok"]


def test_a_full_disk_and_a_home_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**29))
    assert found("disk") == {
        "check": "disk", "ok": False, "detail": "0.5 GiB free for temporary files", "fix": "free some space, or set TMPDIR"
    }  # fmt: skip
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert not found("FLWR_HOME")["ok"]


def test_the_configuration_is_checked(tmp_path: Path) -> None:
    bad = small(tmp_path, method_name="fedd2s", method_args="fixed_level = 9, schedule = 'fixed'")
    finding = found("configuration", experiment=bad)
    assert not finding["ok"]
    assert "fixed_level" in finding["detail"]
    norm = small(tmp_path, model_name="cnn_small", model_args='norm = "batch"')
    assert "BatchNorm" in found("model", experiment=norm)["detail"]  # works with FedAvg, so it is said, not refused
    assert found("model", experiment=small(tmp_path))["detail"] == "no BatchNorm"
    refused = small(tmp_path, method_name="fedd2s", model_name="cnn_small", model_args='norm = "batch"')
    assert "BatchNorm" in found("configuration", experiment=refused)["detail"]
    assert not found("configuration", experiment=refused)["ok"]


def test_missing_data_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedkd.data import fashion_mnist

    monkeypatch.setattr(fashion_mnist, "places", lambda config, root: [tmp_path])
    finding = found("data", experiment=small(tmp_path, data_name="fashion_mnist"))
    assert not finding["ok"]
    assert finding["fix"]
    assert found("data", experiment=small(tmp_path))["ok"]


def test_workers_nodes_and_output_of_the_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 2)
    greedy = small(tmp_path, workers=4, num_nodes=2)
    assert found("workers", experiment=greedy)["fix"] == "workers = 2"
    assert not found("nodes", experiment=greedy)["ok"]
    assert found("workers", experiment=small(tmp_path))["ok"]
    (tmp_path / "file").write_text("")
    assert not found("output", experiment=small(tmp_path / "file"))["ok"]
    assert found("output", experiment=small(tmp_path))["ok"]
