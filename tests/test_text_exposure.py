"""Exposure of planted sentences: a federation of text that memorizes shows it in every view that holds it, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedkd import transcripts
from fedkd.config import Experiment
from fedkd.data import next_token
from fedkd.errors import ConfigError
from fedkd.finished import Finished, final_models, open_finished
from fedkd.signals import rank_of_secret
from fedkd.text_exposure import Windows, of_models, of_rows, planted
from server.run_folder import run_id
from tests.small_runs import run, small

DATA = "clients = 3, characters = 250, public_characters = 100, repetitions = [0, 12], per_count = 1, window = 24"
TEXT: dict[str, Any] = {
    "method_name": "fedmd", "method_args": 'consensus = "probabilities"', "model_name": "window_mlp",
    "model_args": "width = 8, hidden = [48]", "data_name": "next_token", "data_args": DATA, "partition_name": "natural",
    "partition_args": "", "public_samples": 560, "local_epochs": 6, "learning_rate": 0.1, "max_samples": 0, "batch_size": 16,
    "record": "messages",
}  # fmt: skip


def opened(experiment: Experiment) -> Finished:
    return open_finished(run(experiment), Path(experiment.output) / "state" / run_id(experiment))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return opened(small(tmp_path_factory.mktemp("text"), **TEXT))


def test_the_public_rows_that_ask_for_a_secret_are_found(plain: Finished) -> None:
    known = planted(plain)
    assert len(known.canaries) == 6
    assert sorted(known.places) == list(range(6))
    public = plain.data.public
    assert public is not None
    digits = set(known.digits.tolist())
    for places in known.places.values():
        assert sorted(places) == list(range(6))
        for ids in places.values():
            assert len(ids) == 3, "one per fresh copy"
            assert {int(public.y[np.searchsorted(public.ids, i)]) for i in ids} <= digits


def test_what_a_client_memorized_shows_in_its_rows_and_its_model(plain: Finished) -> None:
    known = planted(plain)
    rows = [e for e in of_rows(plain, known, "up") if e.round == 2]
    assert len(rows) == 6
    held = [e.bits for e in rows if e.copies]
    never = [e.bits for e in rows if not e.copies]
    assert np.mean(held) > np.mean(never) + 5
    back = list(of_rows(plain, known, "down"))
    assert {e.view for e in back} == {"returned"}
    assert {e.round for e in back} == {1, 2}, "nothing comes down before the first upload"
    models = list(of_models(plain, known))
    own = [e.bits for e in models if e.view == "own model" and e.copies]
    other = [e.bits for e in models if e.view == "other models" and not e.copies]
    assert np.mean(own) > 12
    assert np.mean(other) < 8


def test_windows_rank_as_a_forward_pass_does(plain: Finished) -> None:
    known = planted(plain)
    params = dict(final_models(plain))[0]
    asked = Windows(plain.setting, params, known.config.window, known.encoder.bos)
    text = "The id of Bo is "
    logs, past = asked.start(torch.tensor(known.encoder.encode(text)))
    x, _ = next_token.rows(known.config, [text + "0"])
    expected = torch.log_softmax(plain.setting.model.forward(params, torch.tensor(x[-1:]))[1], dim=-1)[0]
    assert torch.allclose(logs, expected.detach(), atol=1e-5)
    digits = torch.from_numpy(known.digits)
    more, _ = asked.extend(past, torch.zeros(10, dtype=torch.int64), digits)
    x, _ = next_token.rows(known.config, [f"{text}{d}0" for d in range(10)])
    last = np.flatnonzero(np.arange(len(x)) % (len(text) + 2) == len(text) + 1)
    expected = torch.log_softmax(plain.setting.model.forward(params, torch.tensor(x[last]))[1], dim=-1)
    assert torch.allclose(more, expected.detach(), atol=1e-5)
    whole = (logs[digits][:, None] + more[:, digits]).flatten()
    found = rank_of_secret(asked, torch.tensor(known.encoder.encode(text)), digits[[4, 2]], digits)
    assert found.better == int((whole > whole[42] + 1e-4).sum())


def test_messages_are_sorted_and_averaged(plain: Finished) -> None:
    messages = list(transcripts.messages(plain.folder, "up", 1))
    assert [m.round for m in messages] == [0, 1, 2]
    assert all(np.all(np.diff(m.ids) > 0) for m in messages)
    assert np.allclose(messages[0].q.sum(axis=1), 1)
    ids, mean = transcripts.mean_rows(plain.folder, "up", 1)
    assert np.array_equal(ids, messages[0].ids)
    assert np.allclose(mean, np.mean([m.q for m in messages], axis=0))


def test_runs_without_text_or_messages_are_refused(tmp_path: Path) -> None:
    experiment = small(tmp_path)
    with pytest.raises(ConfigError, match="holds no messages"):
        opened(experiment)
    with pytest.raises(ConfigError, match="needs data next_token"):
        planted(opened(small(tmp_path / "images", method_name="fedd2s", record="messages")))
