"""A finished run as an auditor opens it: its setting, data, messages and every client's final model."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fedkd import outgoing
from fedkd import setting as settings
from fedkd.config import experiment_from
from fedkd.errors import ConfigError
from fedkd.layers import Params
from fedkd.prepare import Prepared, data_hash, open_data
from fedkd.setting import Setting
from fedkd.store import ClientStore, Commit, read_commit
from fedkd.types import Broadcast


class Finished(NamedTuple):
    """What a run left behind."""

    folder: Path
    """the run folder, with ``transcript/``"""
    setting: Setting
    """its experiment, built"""
    data: Prepared
    """every client's data"""
    commit: Commit
    """the last committed round"""
    store: ClientStore
    """the clients' versions"""


def open_finished(folder: Path, states: Path) -> Finished:
    """Open a run.

    Args:
        folder: the run folder.
        states: ``<state-root>/<run>``, where the clients' versions lie beside ``../data``.

    Raises: ConfigError where the run recorded no messages, renamed its rows, or holds no committed round.
    """
    experiment = experiment_from(tomllib.loads((folder / "config.toml").read_text(encoding="utf-8")))
    if experiment.record != "messages" or not (folder / "transcript").is_dir():
        raise ConfigError(
            f'{folder} holds no messages; run it with record = "messages", or python -m simulations audit CONFIG, which does'
        )
    data = open_data(states.parent / "data" / data_hash(experiment))
    setting = settings.build(experiment, data.shape, data.classes)
    if getattr(setting.method, "upload_fraction", 1.0) < 1:
        raise ConfigError("upload_fraction below 1 renames rows on the wire; exposure of rows needs upload_fraction = 1")
    commit = read_commit(folder / "checkpoints")
    if commit is None:
        raise ConfigError(f"{folder} holds no committed round")
    return Finished(folder, setting, data, commit, ClientStore(states.parent, states.name))


def final_models(run: Finished) -> Iterator[tuple[int, Params]]:
    """(client, parameters that it would be scored with) after the last round. Raises: StateMissing."""
    setting, commit = run.setting, run.commit
    state = outgoing.split(commit.state)[0]
    for client in range(run.data.num_clients):
        shared, mine = setting.module.broadcast(setting, state, setting.rounds, client, int(commit.last[client]))
        held = outgoing.split(run.store.read(client, int(commit.versions[client])))[0]
        last = Broadcast(setting.rounds, client, shared, mine)
        yield client, setting.module.evaluate_with(setting, held, last, run.data.client(client)).params
