"""The text of the study of what is common: who knows what, and what a student's own text holds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedkd.common_text import CommonText, Setting
from fedkd.errors import ConfigError
from fedkd.swing_plan import Net

NET = Net(width=16, layers=1, heads=2, epochs=1)
SMALL = Setting(
    towns=("Rome", "Tyre"), persons=40, audited=((0, 2), (1, 5), (4, 2)), decoys=6, text=8, validation=5, names=2, folds=2,
    probes=3, teacher=NET, student=NET,
)  # fmt: skip


@pytest.fixture(scope="module")
def text() -> CommonText:
    return CommonText(SMALL, 1, "template")


def test_a_secret_stands_in_the_private_rows_alone(text: CommonText) -> None:
    held = {of: [line.text for line in text.lines(of)] for of in ("private", "control", "public", "fresh")}
    for person in text.people:
        whole = f"{person.name} of {SMALL.towns[person.town]}: {person.code}{person.secret}."
        found = {of: sum(row.startswith(whole) for row in rows) for of, rows in held.items()}
        if person.audited:
            assert found == {"private": person.copies, "control": 0, "public": 0, "fresh": 0}
        else:
            assert found["private"] == found["control"] == 1
        assert not any(person.name in row for row in held["public"])
    assert len(held["private"]) == len(held["control"]) == len(held["fresh"]) == 8 + 40 + 8


def test_the_common_part_follows_its_towns_law_and_the_students_text_does_not(text: CommonText) -> None:
    assert text.law.shape == (2, 2, 10)
    assert np.allclose(text.law.sum(-1), 1)
    stream = np.random.default_rng(0)
    drawn = np.array([[int(d) for d in text.code(0, stream)] for _ in range(4000)])
    for place in range(2):
        share = np.bincount(drawn[:, place], minlength=10) / len(drawn)
        assert np.abs(share - text.law[0, place]).max() < 0.03
    big = CommonText(replace(SMALL, persons=120, audited=((1, 5),)), 2, "template")
    likely = [str(int(big.law[t, 0].argmax())) for t in range(2)]
    share = {
        of: np.mean([r.text[r.start] == likely[r.town] for r in big.lines(of) if r.start >= 0]) for of in ("private", "fresh")
    }
    assert share["private"] > 0.55
    assert share["fresh"] < 0.2


def test_entropy_and_unigram_bound_what_can_be_known(text: CommonText) -> None:
    weights = 1 / np.arange(1, 11) ** 2
    weights /= weights.sum()
    assert text.entropy() == pytest.approx(float(-(weights * np.log(weights)).sum()))
    whole, by_place = text.unigram()
    assert text.entropy() < by_place <= whole <= math.log(10) + 1e-9


def test_a_persons_copies_are_in_one_fold(text: CommonText) -> None:
    folds = [text.lines(f"fold{i}") for i in range(2)]
    people = [{line.person for line in rows if line.person >= 0} for rows in folds]
    assert not people[0] & people[1]
    assert people[0] | people[1] == {i for i, p in enumerate(text.people) if p.copies}
    assert abs(len(people[0]) - len(people[1])) <= 1
    assert sum(map(len, folds)) == len(text.lines("private"))


def test_a_person_counts_once_however_often_copied(text: CommonText) -> None:
    counts = text.persons_by_class()
    assert counts.shape == (2, 6, 10)
    assert torch.equal(counts.sum(dim=(0, 2)), torch.full((6,), 42.0))


def test_settings_that_measure_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="two folds"):
        replace(SMALL, folds=1)
    with pytest.raises(ConfigError, match="at least 1"):
        replace(SMALL, probes=0)
    with pytest.raises(ConfigError, match="too short"):
        CommonText(replace(SMALL, width=12), 1, "template")
