"""Passages in a federation of text: their holder learns them by heart, nobody else does; one pass says what comes out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedkd.data import next_token
from fedkd.errors import ConfigError
from fedkd.finished import Finished, final_models, open_finished
from fedkd.passage_recall import recall
from server.run_folder import run_id
from tests.small_runs import run, small

DATA = "clients = 3, characters = 200, public_characters = 300, per_count = 0, window = 12, passages = 3, copies = [0, 1, 20], "
DATA += "passage_characters = 20"
TEXT: dict[str, Any] = {
    "method_name": "fedmd", "method_args": 'consensus = "probabilities"', "model_name": "window_mlp",
    "model_args": "width = 8, hidden = [64]", "data_name": "next_token", "data_args": DATA, "partition_name": "natural",
    "partition_args": "", "public_samples": 300, "local_epochs": 6, "learning_rate": 0.1, "max_samples": 0, "batch_size": 16,
    "record": "messages",
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    experiment = small(tmp_path_factory.mktemp("passages"), **TEXT)
    return open_finished(run(experiment), Path(experiment.output) / "state" / run_id(experiment))


def test_a_holder_memorizes_what_it_saw_often_and_nobody_what_nobody_saw(finished: Finished) -> None:
    found = recall(finished)
    assert found.hits.shape == found.log_pz.shape == (3, 27)
    own = found.hits[found.holder, np.arange(27)]
    assert own[found.copies == 20].mean() > 0.8
    assert found.hits[:, found.copies == 0].mean() < 0.1, "some sentences of a template can be guessed"
    assert found.disagree == 0
    others = np.arange(3)[:, None] != found.holder
    gap = found.log_pz[found.holder, np.arange(27)][found.copies == 20].mean() - found.log_pz[others].mean()
    assert gap > 10, "a holder finds its passages likelier by far than others do"


def test_p_z_is_the_product_of_the_steps(finished: Finished) -> None:
    found = recall(finished)
    config = next_token.Config(clients=3, window=12)
    params = dict(final_models(finished))[1]
    for place in (0, 26):
        x, y = next_token.rows(config, [found.passages[place].text])
        with torch.no_grad():
            logits = finished.setting.model.forward(params, torch.from_numpy(x[12:]))[1]
        steps = torch.softmax(logits, dim=1)[torch.arange(8), torch.from_numpy(y[12:]).long()]
        assert np.exp(found.log_pz[1, place]) == pytest.approx(float(steps.prod()), rel=1e-4)


def test_other_data_and_no_passages_are_refused(finished: Finished) -> None:
    def changed(**fields: Any) -> Finished:
        setting = finished.setting
        return finished._replace(setting=replace(setting, experiment=replace(setting.experiment, **fields)))

    with pytest.raises(ConfigError, match="data next_token"):
        recall(changed(data_name="digits"))
    with pytest.raises(ConfigError, match="passages = 0"):
        recall(changed(data_args=DATA.replace("passages = 3", "passages = 0")))
