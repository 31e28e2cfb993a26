"""What bad input gets: every row of the promise, as the user meets it.

Before the start: one clear line with the valid values or the fix, exit code 2, and no run folder. In mid-run: exit code 1
and a folder that resumes to the result of the undisturbed run.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedkd import store
from fedkd.config import experiment_from
from fedkd.data import fashion_mnist
from fedkd.errors import ConfigError
from server import run_folder
from simulations.run import Outcome, execute, folders_of
from tests.small_runs import SMALL, final_hash, lines, small, status


def refused(output: Path, *said: str, grid: str = "inprocess", port: int = 0, **changes: Any) -> None:
    """The experiment is refused with exit code 2 and one line that contains ``said``; no run folder is left."""
    outcome = execute(small(output, **changes), grid, port)
    assert outcome.code == 2
    assert len(outcome.reason.splitlines()) == 1
    for part in said:
        assert part in outcome.reason
    left = [p for p in output.rglob("*") if p.is_file()] if output.is_dir() else []
    assert [p for p in left if "data" not in p.relative_to(output).parts] == []
    assert not [p for p in left if p.name.startswith(".")], "a temporary file was left behind"
    assert not (output / (changes.get("method_name") or SMALL["method_name"])).exists(), "a run folder was begun"


# ----- configuration ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("flat", "said"),
    [
        ({"num-round": 3}, "unknown key 'num-round'; valid keys: audit.canaries, audit.holdout"),
        ({"num-server-rounds": "3"}, "num-server-rounds = '3' has the wrong type; expected int"),
        ({"report": "no"}, "report = 'no' has the wrong type; expected bool"),
        ({"lr-schedule": "step"}, "valid values: 'cosine', 'constant'"),
        ({"num-server-rounds": 0}, "num-server-rounds = 0; it must be at least 1"),
    ],
)
def test_unknown_and_ill_typed_keys_and_zero_rounds(flat: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        experiment_from(flat)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method_name": "fedavgg"}, ["unknown methods plug-in 'fedavgg'", "available: fedavg, fedd2s, fedmd, local"]),
        ({"model_name": "cnn"}, ["unknown models plug-in 'cnn'", "cnn_small"]),
        ({"loss_name": "kll"}, ["unknown losses plug-in 'kll'", "kl, mse"]),
        ({"data_name": "mnist"}, ["unknown data plug-in 'mnist'", "digits"]),
        ({"executor_name": "pool"}, ["unknown executors plug-in 'pool'", "loop"]),
        ({"method_args": "fine_tune = 1"}, ["method.args: unknown field 'fine_tune'", "fine_tune_epochs = 0"]),
        ({"model_args": 'hidden = "8"'}, ["model.args: hidden", "expected tuple"]),
        ({"loss_name": "ce"}, ["loss ce needs labels"]),
    ],
)
def test_unknown_plugins_and_fields_list_what_exists(tmp_path: Path, changes: dict[str, Any], said: list[str]) -> None:
    refused(tmp_path, *said, **changes)


D2S: dict[str, Any] = {"method_name": "fedd2s"}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ('schedule = "fixed", fixed_level = 4', ["fixed_level: level 4 is outside 1..3", "L = 2 blocks"]),
        ('schedule = [["L+2", 1.0]]', ["schedule: level 'L+2' is outside 0..3"]),
        ("schedule = [[3, 0.5], [4, 1.0]]", ["schedule: level 4 is outside 0..3"]),
        ("top_level = 9", ["top_level: level 9 is outside 1..3"]),
        ("min_cut = 3", ["min_cut = 3 is above the model's L = 2 blocks"]),
        ('dropping_set = ["L"]', ["dropping_set = ['L'] is not a contiguous slice that starts at the top level 3"]),
        ('dropping_set = ["L+1", 1]', ["not a contiguous slice"]),
        ("dropping_set = [7]", ["dropping_set: level 7 is outside 1..3"]),
        ('dropping_set = "all"', ["dropping_set = 'all'; valid: \"auto\" or a list of layers from the top"]),
        ('schedule = "early"', ["schedule = 'early'; valid: late, later, equal, none, fixed, shallow_to_deep"]),
        ("schedule = [[3, 0.5], [2, 0.4]]", ["must rise strictly and end at 1.0"]),
    ],
)
def test_levels_cuts_and_dropping_sets_outside_the_model(tmp_path: Path, args: str, said: list[str]) -> None:
    refused(tmp_path, *said, method_args=args, **D2S)


@pytest.mark.parametrize("method", ["fedd2s"])
def test_batch_norm_where_it_cannot_work(tmp_path: Path, method: str) -> None:
    norm = {"model_name": "cnn_small", "model_args": 'norm = "batch"'}
    refused(tmp_path, "BatchNorm", 'use norm = "group" or "none" in model.args', method_name=method, **norm)
    outcome = execute(small(tmp_path / "fedavg", num_server_rounds=1, **norm))
    assert outcome.code == 0, "averaging takes the statistics along"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_clients": 151}, ["num-clients = 151, but there are 150 samples"]),
        ({"num_clients": 16}, ["min-client-samples = 10 for 16 clients needs 160 samples; there are 150", "can reach 9"]),
        ({"max_samples": 10**6}, ["max-samples = 1000000, but the data set has 1797 samples; 0 takes all"]),
        ({"partition_args": "alpha = 0"}, ["partition.args: alpha = 0.0; it must be above 0"]),
        ({"partition_args": "alpha = -1.5"}, ["alpha = -1.5; it must be above 0"]),
        ({"partition_name": "natural", "partition_args": ""}, ["needs a data set with natural client ids"]),
        (
            {"num_clients": 15, "partition_args": "alpha = 0.01"},
            ["the smallest of 15 clients reached", "use fewer clients, more samples, a smaller minimum or a larger alpha"],
        ),
        ({"audit_holdout": 1.0}, ["but there are 0 samples"]),
    ],
)
def test_partitions_that_cannot_be(tmp_path: Path, changes: dict[str, Any], said: list[str]) -> None:
    refused(tmp_path, *said, **changes)


def test_no_client_is_ever_empty(tmp_path: Path) -> None:
    # min-client-samples = 1 is the least there is; a draw that leaves a client empty is drawn again, then refused
    refused(tmp_path, "num-clients = 12, but there are 10 samples", max_samples=10, min_client_samples=1, num_clients=12)
    with pytest.raises(ConfigError, match="min-client-samples = 0; it must be at least 1"):
        small(tmp_path, min_client_samples=0)


def test_a_data_set_that_is_absent_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "places", lambda config, root: [Path(root or "/nowhere")])
    monkeypatch.delenv("FEDKD_ALLOW_DOWNLOAD", raising=False)
    where = tmp_path / "empty"
    refused(tmp_path / "out", str(where), fashion_mnist.SPEC.fetch, data_name="fashion_mnist", data_root=str(where))


def test_a_gpu_that_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused(tmp_path, 'use device = "auto" or "cpu"', device="cuda")


# ----- output folder and port --------------------------------------------------------------------------------------------
def test_an_output_folder_that_is_a_file_or_below_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", tmp_path / "file" / "deeper"):
        refused(output, "cannot be written", f"{tmp_path}/file is read-only or no folder")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_read_only_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # root may write anywhere, so the system's answer is put in its place
    monkeypatch.setattr(run_folder.os, "access", lambda path, mode: False)
    refused(tmp_path / "out", "cannot be written", f"{tmp_path} is read-only")


def test_a_file_system_that_refuses_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(**_: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(run_folder.tempfile, "TemporaryFile", read_only)
    refused(tmp_path / "out", "cannot be written: Read-only file system")


def test_a_full_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * 2**20))
    refused(tmp_path / "out", "only 3 MiB are free, 16 are needed")


def test_a_disk_that_fills_up_while_data_are_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(tmp_path, "cannot write prepared data below", "No space left on device")
    assert not (tmp_path / "state").exists(), "something was left behind"


@pytest.mark.parametrize("key", ["output", "state_root"])
def test_folders_that_are_not_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDKD_OUTPUT", raising=False)
    outcome = execute(replace(small(tmp_path), **{key: "somewhere"}))
    assert outcome.code == 2
    assert "'somewhere' is not" in outcome.reason
    assert not list(tmp_path.iterdir())


def test_no_output_folder_at_all_says_what_to_add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDKD_OUTPUT", raising=False)
    outcome = execute(replace(small(tmp_path), output=""))
    assert outcome.code == 2
    assert "add -c 'output=" in outcome.reason


def test_a_port_given_by_the_user_that_is_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(tmp_path, f"port {port} is in use; choose another one, or 0 for any free port", grid="flower", port=port)


def test_a_port_that_is_bound_but_silent_is_in_use_too(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        refused(tmp_path, f"port {port} is in use", grid="flower", port=port)


def test_an_unknown_grid_and_more_workers_than_nodes(tmp_path: Path) -> None:
    refused(tmp_path, "unknown grid 'spark'; valid grids: inprocess, flower, ray", grid="spark")
    refused(tmp_path, "workers = 3 but num-nodes = 2", "raise num-nodes", workers=3)


# ----- mid-run -----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outcome = execute(small(tmp_path_factory.mktemp("undisturbed"), method_name="fedd2s"))
    assert outcome.code == 0
    return outcome.folders[0]


def _fsync(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """From the second round on no file of the run reaches the disk."""
    real = os.fsync

    def full(handle: int) -> None:
        if (folder / "checkpoints" / "0").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)


def _commit(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The disk is full when the server commits its second round."""
    real = store.write_atomic

    def full(path: Path, content: bytes, **more: Any) -> None:
        if path.parent.name == ".tmp-1":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content, **more)

    monkeypatch.setattr(store, "write_atomic", full)


def _lines(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The disk is full in the middle of a line of the second round."""
    real = store.Lines.append

    def full(self: store.Lines, name: str, rows: list[dict[str, Any]], round: int) -> None:
        if round == 1 and name == "clients":
            with self.paths[name].open("ab") as file:
                file.write(b'{"round": 1, "cli')
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, name, rows, round)

    monkeypatch.setattr(store.Lines, "append", full)


def _start(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The disk is full while the facts of the run are written."""
    real = run_folder.write_json

    def full(path: Path, value: dict[str, Any]) -> None:
        if path.name == "environment.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, value)

    monkeypatch.setattr(run_folder, "write_json", full)


@pytest.mark.parametrize("fill", [_fsync, _commit, _lines, _start])
def test_disk_full_in_mid_run_is_exit_code_1_and_a_folder_that_resumes(
    tmp_path: Path, undisturbed: Path, fill: Callable[[pytest.MonkeyPatch, Path], None]
) -> None:
    experiment = small(tmp_path, method_name="fedd2s")
    (folder,) = folders_of(experiment)
    with pytest.MonkeyPatch.context() as patch:
        fill(patch, folder)
        outcome: Outcome = execute(experiment)
    assert outcome.code == 1
    assert "No space left on device" in outcome.reason
    assert f"go on with: python -m simulations resume {folder}" in outcome.reason
    assert not (folder / "summary.json").exists()
    again = execute(replace(experiment, resume=True))
    assert (again.code, again.reason) == (0, "")
    assert final_hash(folder) == final_hash(undisturbed)
    for name in ("rounds", "clients", "failures"):
        assert lines(folder, name) == lines(undisturbed, name)
    assert (folder / "partition.json").read_bytes() == (undisturbed / "partition.json").read_bytes()
    assert (folder / "environment.json").exists()


def test_a_client_whose_disk_is_full_is_that_clients_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = store.write_atomic

    def full(path: Path, content: bytes, **more: Any) -> None:
        if path.parent.name == "1" and path.parent.parent.name.startswith("fedd2s-"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content, **more)

    monkeypatch.setattr(store, "write_atomic", full)
    outcome = execute(small(tmp_path, method_name="fedd2s", on_failure="skip"))
    assert outcome.code == 3
    assert {(f["client"], f["error"]) for f in lines(outcome.folders[0], "failures")} == {(1, "OSError")}
    assert status(outcome.folders[0])[0] == 3


def test_lost_run_files_are_not_papered_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_FAULT", "raise:1:0")
    experiment = small(tmp_path)
    (folder,) = folders_of(experiment)
    assert execute(experiment).code == 1
    monkeypatch.delenv("FEDKD_FAULT")
    (folder / "clients.jsonl").write_text("")
    outcome = execute(replace(experiment, resume=True))
    assert outcome.code == 1
    assert "lost committed lines" in outcome.reason
    shutil.rmtree(folder)
    assert execute(replace(experiment, resume=True)).code == 2, "there is nothing to resume"
