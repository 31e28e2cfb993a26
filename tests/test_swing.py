"""One seed of a swing study on made-up text: what each set holds, what each arm learns, and what is neutral."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from fedkd import canary, language, swing, tokens
from fedkd.errors import ConfigError, DataError
from fedkd.losses.swing import Config as Protection
from fedkd.sensitivity import regex
from fedkd.spans import Span
from fedkd.swing import Bench
from fedkd.swing_arms import ARMS, GROUPS, Missed
from fedkd.swing_plan import Net, Plan, Task, Text, read_plan

SMALL = Plan(
    "small",
    text=Text("template", rows=30, validation=10),
    canaries=canary.Config(repetitions=(0, 2), per_count=2, decoys=4, references=0),
    teacher=Net(width=16, layers=1, heads=2, epochs=1),
    student=Net(width=16, layers=1, heads=2, epochs=1),
)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(SMALL, 0)


@pytest.fixture(scope="module")
def teacher(bench: Bench) -> Callable[[str], PreTrainedModel]:
    private = bench.train_teacher("private")
    public = bench.train_teacher("public")
    return lambda kind: public if kind == "public" else private


def test_rows_hold_what_their_names_say(bench: Bench) -> None:
    texts = {name: [r.text for r in bench.records(name)] for name in ("private", "control", "public", "fresh", "text")}
    planted = [c for c in bench.canaries.canaries if c.repetitions]
    assert [len(t) for t in texts.values()] == [38, 38, 34, 38, 34]
    for c in bench.canaries.canaries:
        held = {name: sum(f" {c.name} " in t for t in rows) for name, rows in texts.items()}
        assert held == {"private": c.repetitions, "control": 0, "public": 0, "fresh": c.repetitions, "text": 0}
    canary.verify(texts["private"], bench.canaries)
    for c in planted:
        assert not any(c.secret in text for text in texts["fresh"]), "a student of R2 never reads a secret"
    assert sum(d in t for d in bench.canaries.decoys for t in texts["control"]) == 4
    assert texts["private"][:30] == texts["control"][:30] == texts["fresh"][:30]
    assert not set(texts["public"][:30]) & set(texts["private"])
    assert not {r.text for r in bench.validation} & {t for rows in texts.values() for t in rows}


def test_the_oracle_marks_the_digits_and_the_patterns_find_them(bench: Bench) -> None:
    records = bench.records("fresh")
    rows = bench.rows(records)
    known = bench.likelihood(records, oracle=True)
    digits = torch.isin(rows.tokens[:, 1:], torch.tensor(bench.tokens.digits)) & rows.real
    assert torch.equal(known > 0, digits), "template text holds no digit of its own"
    assert int(digits.sum()) == 6 * 8
    assert torch.equal(bench.likelihood(records, oracle=False) >= 0.5, digits)


@pytest.mark.parametrize("regime", ["R1", "R2"])
def test_arms_differ_in_their_lesson_alone(bench: Bench, teacher: Callable[[str], PreTrainedModel], regime: str) -> None:
    task = Task(0, "R1" if regime == "R1" else "R2", "kd", 1)
    records = bench.transfer(task.regime, "teacher")
    rows = bench.rows(records)
    private = bench.likelihood(records, True) > 0
    found = {
        name: bench.lesson(replace(task, arm=name), rows, records, teacher)
        for name, arm in ARMS.items()
        if task.regime in arm.regimes and arm.source != "control" and arm.missed is None
    }
    weight = 0.5 if regime == "R1" else 1.0
    kd = found["kd"][0]
    assert kd.teacher is not None
    assert float(kd.hard.max()) == 1 - weight
    assert float(kd.soft.min()) == weight
    assert found["ce"][0].teacher is None
    redacted = found["redaction"][0]
    assert float(redacted.hard[private].max()) == float(redacted.soft[private].max()) == 0
    for name, (lesson, facts) in found.items():
        assert facts["recall"] == facts["precision"] == 1.0
        if lesson.teacher is not None and ARMS[name].source != "nothing":
            assert torch.equal(lesson.teacher[~private & rows.real], kd.teacher[~private & rows.real]), name
            if not (name in ("kd", "masked_kd") or name.startswith("kd_")):
                assert not torch.equal(lesson.teacher[private], kd.teacher[private]), name
    typed = found["typed"][0].teacher
    assert typed is not None
    uniform = torch.softmax(typed[private], dim=-1)
    assert torch.allclose(uniform[:, list(bench.tokens.digits)], torch.tensor(0.1), atol=1e-5)
    assert found["swing"][1]["charges"] > 0
    assert "swing" in found
    if regime == "R1":
        assert "hard labels of 48 private tokens" in found["swing_unmasked"][1]["warning"]
        assert "warning" not in found["swing"][1]


def test_a_token_map_masks_the_secret(bench: Bench, teacher: Callable[[str], PreTrainedModel]) -> None:
    records = bench.transfer("R2", "teacher")
    _, facts = bench.lesson(Task(0, "R2", "swing", 1), bench.rows(records), records, teacher)
    shown = facts["token_map"]
    assert sum(s["token"] == "#" for s in shown) == 6
    assert not any(s["token"].isdigit() for s in shown)
    assert sorted({round(s["temperature"], 3) for s in shown}) == [1.0, 18.1]
    line = "".join(s["token"] for s in shown)
    assert line.startswith("The id of ")
    assert line.endswith(" is ######."), "the corpus behind the planted line is not shown"


def test_a_token_map_masks_a_secret_that_no_detector_found(teacher: Callable[[str], PreTrainedModel]) -> None:
    bench = Bench(replace(SMALL, sensitivity="oracle"), 0)
    records = bench.transfer("R1", "teacher")
    _, facts = bench.lesson(Task(0, "R1", "swing", 1), bench.rows(records), records, teacher)
    assert "".join(s["token"] for s in facts["token_map"]).endswith(" is ######.")
    assert bench._token_map(Protection(), bench.text, torch.zeros(30, 64)) == []


def test_the_logit_gap_is_the_teachers_at_its_own_secrets() -> None:
    plan = replace(SMALL, canaries=replace(SMALL.canaries, repetitions=(0, 40)), teacher=Net(width=32, layers=1, epochs=12))
    bench = Bench(plan, 0)
    untrained, trained = bench.fresh_model(plan.teacher, "teacher"), bench.train_teacher("private")
    assert set(bench.logit_gaps(trained)) == {"40"}
    assert abs(bench.logit_gaps(untrained)["40"]) < 0.5
    assert bench.logit_gaps(trained)["40"] > 0.7, "forty copies are learned"


@pytest.mark.parametrize("how", ["neutral protection", "nothing is private"])
def test_neutral_swing_is_plain_distillation_bit_for_bit(how: str) -> None:
    if how == "neutral protection":
        plan = replace(SMALL, protection=Protection(temperature_high=1.0, noise="none"))
    else:
        plan = replace(SMALL, sensitivity="oracle", sensitivity_args="")
    bench = Bench(plan, 0)
    model = bench.train_teacher("private")
    one, other = (bench.student(Task(0, "R2", arm, 1), lambda kind: model) for arm in ("kd", "swing"))
    for name in ("canaries", "perplexity", "type_mass", "type_nll"):
        assert one[name] == other[name]


def test_a_student_is_asked_for_every_secret(bench: Bench, teacher: Callable[[str], PreTrainedModel]) -> None:
    result = bench.student(Task(0, "R2", "kd", 1), teacher)
    assert [c["copies"] for c in result["canaries"]] == [0, 0, 2, 2]
    assert all(0 <= c["bits"] <= 19.94 for c in result["canaries"])
    assert result["steps"] == 2
    assert 0 < result["type_mass"] < 1
    assert result == bench.student(Task(0, "R2", "kd", 1), teacher), "the same seed gives the same numbers"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text": Text("template", width=20, rows=30, validation=10)}, "text.width = 20 is too short"),
        ({"text": Text("template", rows=10**6, validation=10)}, "too few rows of 64 tokens"),
        ({"canaries": replace(SMALL.canaries, template="No fields")}, "needs {name} and {secret}"),
        ({"canaries": replace(SMALL.canaries, per_count=10**6)}, "names asked for"),
    ],
)
def test_a_study_that_cannot_be_is_refused_before_anything_is_trained(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Bench(replace(SMALL, **change), 0)


def test_a_canary_name_in_the_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    word = next(w for r in Bench(SMALL, 0).records("text") for w in r.text.split() if w.isalpha() and len(w) > 4)
    monkeypatch.setattr(canary, "_names", lambda count, rng: [word, *(f"Bobob{i}" for i in range(count - 1))])
    with pytest.raises(ConfigError, match="occurs in the text"):
        Bench(SMALL, 0)


def test_a_likelihood_outside_0_to_1_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regex, "find", lambda config, texts: [[Span(0, 3, "digits", 1.5)] for _ in texts])
    with pytest.raises(ConfigError, match=r"regex gave a likelihood outside \[0, 1\]"):
        bench.likelihood(bench.records("fresh"), oracle=False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds = []", "at least one seed"),
        ('regimes = ["R9"]', "regimes are R1, R2, R3 and R4"),
        ('arms = ["magic"]', "unknown arm 'magic'; valid: ce, kd"),
        ("[text]\nrow = 3", r"\[text\]: unknown field 'row'; valid fields: name"),
        ("seeds = [0, 0]", "seeds = \\[0, 0\\] names one twice"),
        ('long_arms = ["kd"]\nlong_factor = 1', "long_factor = 1; valid: 2 or more"),
        ("[protection]\nkd_weight = 0.9", "kd_weight is set by the regime and the arm"),
        ('[protection]\nnoise_key = "redraw"', "needs a teacher that is asked at each use"),
        ('divergence = "magic"', "unknown loss"),
        ('divergence_args = "heat = 2"', "unknown field 'heat'"),
        ("[student]\nheads = 3", "a width that heads divides"),
        ("[teacher]\nepochs = -1", "epochs >= 0"),
        ("[text]\nrows = 0", "an empty transfer set teaches nothing"),
        ("text = 3", r"\[text\] must be a table"),
        ("[student]\nepochs = 1.5", "wrong type"),
        ("[protection]\ntheta = 2.0", "theta"),
        ('sensitivity = "gap"', "does not read text"),
        ('sensitivity = "magic"', "unknown sensitivity"),
        ('kind = "federation"', 'kind must be "swing"'),
        ("seeds =", "is not valid TOML"),
    ],
)
def test_a_wrong_plan_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_plan(path)


def test_what_changes_a_number_changes_the_hash() -> None:
    assert SMALL.hash == replace(SMALL, name="x", seeds=(4,), arms=("kd",), long_arms=("kd",), regimes=("R1",)).hash
    others = [replace(SMALL, text=replace(SMALL.text, rows=31)), replace(SMALL, protection=Protection(gamma=2.0))]
    others += [replace(SMALL, student=replace(SMALL.student, epochs=2)), replace(SMALL, sensitivity="oracle")]
    assert len({SMALL.hash, *(o.hash for o in others)}) == 5


def test_greedy_decoding_follows_the_likeliest_token(bench: Bench, teacher: Callable[[str], PreTrainedModel]) -> None:
    model = teacher("private")
    prefix = bench.prefix("Kabemi")
    row = prefix
    for _ in range(4):
        with torch.no_grad():
            row = torch.cat([row, model(row[None], use_cache=False).logits[0, -1].argmax()[None]])
    assert swing._greedy(swing.Cached(model), prefix, 4) == row[len(prefix) :].tolist()


@pytest.mark.slow
def test_s_distillation_leaks_and_swing_does_not() -> None:
    """The smoke set-up of specs: swing, section 5, on the plays: KD above 12 bits at 64 copies, swing below 4."""
    plan = Plan(
        "smoke",
        regimes=("R1",),
        text=Text("shakespeare", rows=800, validation=100),
        canaries=canary.Config(repetitions=(0, 64), per_count=8, decoys=64, references=0),
        teacher=Net(epochs=8),
        student=Net(epochs=8),
    )
    try:
        bench = Bench(plan, 0)
    except DataError as error:
        pytest.skip(str(error))
    private = bench.train_teacher("private")
    bits = {}
    for arm in ("kd", "swing"):
        found = bench.student(Task(0, "R1", arm, 1), lambda kind: private)
        bits[arm] = sum(c["bits"] for c in found["canaries"] if c["copies"]) / 8
    assert bits["kd"] > 12
    assert bits["swing"] < 4


def saved(folder: Path, vocabulary: int, alphabet: str = "", context: int = 65) -> str:
    """A tiny model and its tokenizer in Hugging Face's format; returns the folder."""
    text = Bench(SMALL, 0).public_text
    trained = tokens.bpe([r.text + alphabet for r in text], 300)
    backend = Backend.from_str(json.dumps(trained.to_json()["tokenizer"]))
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>").save_pretrained(str(folder))
    size = language.Size(vocabulary=vocabulary or trained.vocabulary, width=16, layers=1, heads=2, context=context)
    language.build(size, 1).save_pretrained(str(folder))
    return str(folder)


def test_own_models_in_folders_are_teacher_and_student(tmp_path: Path) -> None:
    folder = saved(tmp_path / "own", 0)
    plan = replace(
        SMALL,
        text=replace(SMALL.text, tokenizer="teacher"),
        teacher=replace(SMALL.teacher, folder=folder),
        student=replace(SMALL.student, folder=folder),
    )
    bench = Bench(plan, 0)
    model = bench.train_teacher("private")
    result = bench.student(Task(0, "R2", "swing", 1), lambda kind: model)
    assert result["recall"] == 1.0
    assert len(result["canaries"]) == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("tokenizer", "different tokenizers"),
        ("vocabulary", "vocabularies differ"),
        ("context", "reads 20 tokens; text.width = 64 is more"),
        ("missing", "is no folder, and the hub gave nothing"),
        ("empty", "no causal language model that transformers can read"),
        ("none", "needs teacher.folder"),
    ],
)
def test_models_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, said: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    own = saved(tmp_path / "own", 0)
    other = own
    if change == "tokenizer":
        other = saved(tmp_path / "other", 0, "zqzqzqzq" * 3)
    elif change == "vocabulary":
        other = saved(tmp_path / "other", 500)
    elif change == "context":
        own = other = saved(tmp_path / "other", 0, context=20)
    elif change == "missing":
        own = "nobody/nothing"
    elif change == "empty":
        (tmp_path / "bare").mkdir()
        other = str(tmp_path / "bare")
    how: Literal["characters", "teacher"] = "characters" if change == "empty" else "teacher"
    plan = replace(
        SMALL,
        text=replace(SMALL.text, tokenizer=how),
        teacher=replace(SMALL.teacher, folder="" if change in ("none", "empty") else own),
        student=replace(SMALL.student, folder=other),
    )
    with pytest.raises(ConfigError, match=said):
        distilled(plan)


def distilled(plan: Plan) -> dict[str, Any]:
    bench = Bench(plan, 0)
    model = bench.train_teacher("private")
    return bench.student(Task(0, "R2", "kd", 1), lambda kind: model)


def test_further_students_come_last_and_none_twice() -> None:
    plan = replace(
        SMALL, seeds=(0, 1), regimes=("R2",), long_arms=("kd",), more=("divergence", "R1:swing", "R1:detector", "kd")
    )
    stems = [t.stem for t in plan.tasks()]
    main = len([a for a in GROUPS["main"] if "R2" in ARMS[a].regimes])
    assert len(stems) == len(set(stems)) == 2 * (main + 1 + 10 + 1 + 8)
    assert stems[2 * main : 2 * main + 2] == ["s0-R2-kd-x3", "s1-R2-kd-x3"]
    assert stems[2 * main + 2] == "s0-R2-kd_reverse_kl"
    assert plan.hash == SMALL.hash, "which students are trained changes none of them"
    with pytest.raises(ConfigError, match="R9:kd"):
        replace(SMALL, more=("R9:kd",)).tasks()
    with pytest.raises(ConfigError, match="an arm or a group"):
        replace(SMALL, more=("nothing",)).tasks()


def test_a_degraded_detector_misses_what_it_says(bench: Bench) -> None:
    records = bench.records("private")
    known = bench.likelihood(records, oracle=True) > 0
    texts = [r.text for r in records]
    copies = {c.secret: sum(c.secret in t for t in texts) for c in bench.canaries.canaries if c.repetitions}
    for arm in GROUPS["detector"]:
        missed = ARMS[arm].missed
        assert missed is not None
        found = bench.likelihood(records, False, missed) >= 0.5
        assert not bool((found & ~known).any())
        assert torch.equal(found, bench.likelihood(records, False, missed) >= 0.5), "the same misses for every arm"
    half = {
        arm: bench.likelihood(records, False, ARMS[arm].missed) >= 0.5 for arm in ("swing_missed_50", "swing_missed_50_alone")
    }
    assert set(copies.values()) == {2}
    assert int((half["swing_missed_50"] & ~half["swing_missed_50_alone"]).sum()) > 0, "what is left flags its other copies"
    assert not bool((half["swing_missed_50_alone"] & ~half["swing_missed_50"]).any())
    lost = bench.likelihood(records, False, Missed(1.0, strings=True))
    assert float(lost.max()) < 0.5


def test_an_arm_may_minimise_another_divergence(bench: Bench, teacher: Callable[[str], PreTrainedModel]) -> None:
    found = {a: bench.student(Task(0, "R2", a, 1), teacher)["perplexity"] for a in ("kd", *GROUPS["divergence"][::2])}
    assert len(set(found.values())) == len(found), found
    plain = Bench(replace(SMALL, divergence="tv", divergence_args="temperature = 1.0"), 0)
    assert plain.student(Task(0, "R2", "kd", 1), teacher)["perplexity"] == found["kd_tv"]


def test_a_detector_that_does_not_list_its_hits_is_not_degraded(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('kind = "swing"\nsensitivity = "combined"\nmore = ["R1:detector"]\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="degrades a detector by patterns"):
        read_plan(path)
