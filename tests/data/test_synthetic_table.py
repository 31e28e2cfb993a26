"""The stored table: the rows of ``synthetic`` client by client, all of them training rows, through preparation too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkd.config import Experiment
from fedkd.data import synthetic, synthetic_table
from fedkd.errors import ConfigError
from fedkd.prepare import open_data, prepare


def test_rows_are_those_of_the_generator() -> None:
    config = synthetic_table.Config(clients=3, samples_per_client=7, size_skew=1.0, seed=5)
    table = synthetic_table.load(config, "")
    assert table.groups is not None
    for client in range(3):
        made = synthetic.generate(synthetic.Config(samples_per_client=7, size_skew=1.0), 5, client)
        assert np.array_equal(table.x[table.groups == client], made.x)
        assert np.array_equal(table.y[table.groups == client], made.y)


def test_a_prepared_client_trains_on_all_its_rows_and_scores_none(tmp_path: Path) -> None:
    experiment = Experiment(
        data_name="synthetic_table", data_args="clients = 4, samples_per_client = 12", num_clients=4,
        partition_name="natural", partition_args="",
    )  # fmt: skip
    data = open_data(prepare(experiment, tmp_path))
    made = synthetic.Config(samples_per_client=12)
    for n in range(4):
        client = data.client(n)
        assert (len(client.train), len(client.val), len(client.test)) == (12, 0, 0)
        assert np.array_equal(client.train.x, synthetic.generate(made, 0, n).x)


@pytest.mark.parametrize(("field", "value"), [("clients", 0), ("alpha", 0.0), ("shape", (8, 8))])
def test_bad_fields_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field):
        synthetic_table.Config(**{field: value})
