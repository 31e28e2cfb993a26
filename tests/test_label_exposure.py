"""Exposure of label canaries: a leak is maximal, no leak is 1.44 bits, and each view reads what its observer has."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from fedkd import label_exposure
from fedkd.config import Experiment
from fedkd.label_exposure import LabelString, audit, label_strings, rank
from fedkd.prepare import open_data, prepare
from server.run_folder import run_id
from tests.small_runs import run, small
from tests.swing_rows import PASS, SEEDED, federation
from tests.toy import refusal

LENGTH, CLASSES = 4, 10
CANARIES = {"record": "messages", "audit_canaries": 60, "local_epochs": 20, "model_args": "hidden = [32, 32]"}


def views(experiment: Experiment) -> dict[str, label_exposure.View]:
    folder = run(experiment)
    states = Path(experiment.output) / "state" / run_id(experiment)
    return {v.name: v for v in audit(folder, states, LENGTH)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, label_exposure.View]:
    return views(small(tmp_path_factory.mktemp("plain"), method_name="fedd2s", **CANARIES))


def mean(view: label_exposure.View) -> float:
    assert view.report is not None
    (stratum,) = view.report.strata
    return stratum.mean


def test_a_string_holds_canaries_of_one_client_that_are_in(tmp_path: Path) -> None:
    data = open_data(prepare(small(tmp_path, **CANARIES), tmp_path))
    strings = label_strings(data, LENGTH)
    ids = np.concatenate([s.ids for s in strings])
    assert len(np.unique(ids)) == len(ids) == LENGTH * len(strings)
    for s in strings:
        train = data.client(s.client).train
        at = np.searchsorted(train.ids, s.ids)
        np.testing.assert_array_equal(train.ids[at], s.ids)
        np.testing.assert_array_equal(train.y[at], s.given_labels)
        assert (s.given_labels != s.true_labels).all()
    assert label_strings(data, 1000) == ()


def test_a_model_that_tells_the_labels_has_rank_one_and_one_that_does_not_has_1_44_bits() -> None:
    """Null: the planted string is uniform over the (C - 1)^k strings of wrong labels, whatever is said of the true ones."""
    stream, bits = np.random.default_rng(0), []
    for _ in range(400):
        true = stream.integers(CLASSES, size=LENGTH)
        given = (true + stream.integers(1, CLASSES, size=LENGTH)) % CLASSES
        string = LabelString(0, np.arange(LENGTH), true, given)
        logits = stream.normal(size=(LENGTH, CLASSES)) + 8 * np.eye(CLASSES)[true]
        found = rank(label_exposure._log_softmax(logits), string)
        assert found.candidates == (CLASSES - 1) ** LENGTH
        bits.append(math.log2(found.candidates) - math.log2(found.better + 1))
        told = rank(label_exposure._log_softmax(logits + 20 * np.eye(CLASSES)[given]), string)
        assert (told.better, told.tied) == (0, 0)
    assert np.mean(bits) == pytest.approx(1 / math.log(2), abs=3 * 1.44 / math.sqrt(400))


def test_the_released_rows_of_a_plain_run_tell_the_planted_labels(plain: dict[str, label_exposure.View]) -> None:
    assert tuple(plain) == label_exposure.VIEWS
    ceiling = LENGTH * math.log2(CLASSES - 1)
    assert plain["released"].labels_sent == 1.0, "raw labels travel beside the rows"
    assert plain["returned"].labels_sent is None
    assert all(v.strings == plain["released"].strings >= 4 for v in plain.values())
    assert all(v.report is not None and v.report.ceiling == pytest.approx(ceiling) for v in plain.values())
    assert mean(plain["released"]) > 0.8 * ceiling
    assert mean(plain["own model"]) > mean(plain["other models"])


def test_swing_lowers_what_the_rows_tell_and_says_that_labels_were_sent(
    plain: dict[str, label_exposure.View], tmp_path: Path
) -> None:
    args = f"{PASS}, {SEEDED}, noise_scale = 0.5"
    got = views(federation(tmp_path, args, sensitivity_args="likelihood = 1.0", **CANARIES))
    assert mean(got["released"]) < 0.5 * mean(plain["released"])
    assert got["released"].labels_sent == 1.0


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    experiment = small(tmp_path, method_name="fedd2s")
    folder, states = run(experiment), tmp_path / "state" / run_id(experiment)
    assert 'run it with record = "messages"' in refusal(lambda: audit(folder, states))
    few = small(tmp_path / "few", method_name="fedd2s", record="messages", audit_canaries=2)
    folder, states = run(few), tmp_path / "few" / "state" / run_id(few)
    assert "gives no client 6 canaries that are in" in refusal(lambda: audit(folder, states))


def test_a_diverged_model_shows_no_string_and_stops_nothing() -> None:
    """A model whose outputs are no numbers ranks nothing; the strings of the others count as before."""
    strings = [LabelString(c, np.arange(2), np.array([0, 1]), np.array([1, 2])) for c in (0, 1)]
    numbers, none = np.log(np.full((2, 3), 1 / 3)), np.full((2, 3), np.nan)
    view = label_exposure._view("own model", [numbers, none], strings, None)
    assert view.strings == 1 and view.report is not None
    assert label_exposure._view("own model", [none, none], strings, None).report is None
