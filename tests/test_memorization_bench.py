"""One teacher of a memorization study on made-up text: what is planted, what is learned, and the one-pass rule."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedkd import distill
from fedkd.distill import Lesson, Rows, Training
from fedkd.errors import ConfigError, RunError
from fedkd.language import Size, build
from fedkd.memorization import inheritance
from fedkd.memorization_bench import Bench, chosen_epoch, divergences, glance, greedy, recall
from fedkd.memorization_plan import ARMS, Plan, Task, Text, read_plan
from fedkd.swing_plan import Net

NET = Net(width=16, layers=1, heads=2, epochs=1, batch_size=8)
SMALL = Plan(
    "small",
    text=Text("template", ("high_entropy",), "", 280, 24, 4, (1, 3), (5, 4), pool=16, extra=4, held_out=6, held_out_prose=6),
    teacher=NET,
    student=NET,
    scout=NET,
    floor=0.0,
)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(SMALL, 0)


def test_passages_are_a_ramp_and_nothing_is_drawn_twice(bench: Bench) -> None:
    assert bench.passages.copies.tolist() == [1] * 5 + [3] * 4
    epoch = bench.passages.epoch()
    assert np.bincount(epoch.numpy()).tolist() == bench.passages.copies.tolist()
    assert bench.passages.epoch([0, 8]).tolist() == [0, 8, 8, 8]
    parts = (bench.passages.rows, bench.others.rows, bench.pool, bench.held_out, bench.held_out_prose)
    every = [tuple(row) for rows in parts for row in rows.tokens.tolist()]
    assert len(set(every)) == len(every) == 9 + 9 + 20 + 6 + 6
    assert {len(row) for row in every} == {29}
    assert {row[0] for row in every} == {bench.tokens.bos}
    assert len(set(bench.passages.ids)) == 9
    assert set(bench.described()) >= {"copies", "cluster", "id", "stratum", "zlib_entropy"}
    assert not torch.equal(Bench(SMALL, 1).passages.rows.tokens, bench.passages.rows.tokens), "a teacher draws anew"


def test_transfer_sets_share_all_half_or_nothing(bench: Bench) -> None:
    own, others = bench.passages.rows.tokens, bench.others.rows.tokens
    same, shared = bench._transfer(ARMS["student"])
    assert same is own and shared.all()
    disjoint, shared = bench._transfer(ARMS["student_disjoint"])
    assert disjoint is others and not shared.any()
    half, shared = bench._transfer(ARMS["student_overlap"])
    assert shared.tolist() == [True, False, True, False, True, True, False, True, False], "every second of each count"
    assert torch.equal(half[shared], own[shared]) and torch.equal(half[~shared], others[~shared])


def test_smoothing_has_the_gradient_of_torchs_own(bench: Bench) -> None:
    rows = bench.passages.rows
    lesson, divergence = bench._lesson(ARMS["smoothed"], rows, rows.tokens, torch.arange(len(rows)), None)
    stream = torch.Generator().manual_seed(0)
    target = rows.tokens[0, 1:]
    logits = torch.randn(len(target), bench.tokens.vocabulary, generator=stream, requires_grad=True)
    assert lesson.teacher is not None and divergence is not None
    ours = (lesson.hard[0] * F.cross_entropy(logits, target, reduction="none")).sum()
    ours = ours + (lesson.soft[0] * divergence(logits, lesson.teacher[0])).sum()
    theirs = F.cross_entropy(logits, target, reduction="sum", label_smoothing=SMALL.smoothing)
    one, other = (torch.autograd.grad(v, logits)[0] for v in (ours, theirs))
    assert torch.allclose(one, other, atol=1e-6)


def test_ties_count_as_not_memorized() -> None:
    """A model whose logits are all equal ranks nothing first."""
    model = build(Size(vocabulary=12, width=8, layers=1, heads=2, context=10), 0)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    tokens = torch.randint(0, 12, (3, 9), generator=torch.Generator().manual_seed(0))
    assert not recall(model, tokens, 5)["hits"].any()
    assert not glance(model, tokens, 5)["hits"].any()


def test_p_z_is_the_product_of_the_steps_and_generation_follows_the_likeliest() -> None:
    model = build(Size(vocabulary=12, width=16, layers=2, heads=2, context=10), 3)
    tokens = torch.randint(0, 12, (5, 9), generator=torch.Generator().manual_seed(1))
    found, quick = recall(model, tokens, 4), glance(model, tokens, 4)
    for row in range(5):
        product, made = 1.0, tokens[row, :4]
        for t in range(4, 9):
            with torch.inference_mode():
                step = torch.softmax(model(tokens[row : row + 1, :t], use_cache=False).logits[0, -1], dim=0)
                made = torch.cat([made, model(made[None], use_cache=False).logits[0, -1].argmax()[None]])
            product *= float(step[tokens[row, t]])
        assert np.exp(found["log_pz"][row]) == pytest.approx(product, rel=1e-4)
        assert greedy(model, tokens[row : row + 1, :4], 5)[0].tolist() == made[4:].tolist()
    assert quick["log_pz"] == pytest.approx(found["log_pz"], abs=1e-4)
    assert quick["nll"] == pytest.approx(found["nll"], abs=1e-5)
    assert (quick["hits"] == found["hits"]).all()
    forbidden = int(greedy(model, tokens[:1, :4], 1)[0, 0])
    assert forbidden not in greedy(model, tokens[:1, :4], 5, (forbidden,))[0].tolist()


def test_a_model_that_memorizes_everything_and_an_untouched_one_are_the_extremes() -> None:
    """Twenty sequences learned by heart all come out, by the rule and by real generation; the untouched base gives none."""
    tokens = torch.randint(0, 30, (20, 11), generator=torch.Generator().manual_seed(2))
    rows = Rows(tokens, torch.full((20,), 11))
    base = build(Size(vocabulary=30, width=48, layers=1, heads=2, context=12), 0)
    model = deepcopy(base)
    distill.train(model, rows, Lesson.text(rows), Training(120, 1e-2, 10, weight_decay=0.0), 0)
    found = recall(model, tokens, 5)
    assert found["hits"].all() and found["generated"].all()
    assert not found["distance"].any()
    none = recall(base, tokens, 5)
    assert not none["hits"].any() and not none["generated"].any()
    assert (none["distance"] > 0.1).all()


def test_every_arm_trains_and_says_what_it_did(bench: Bench) -> None:
    plan = SMALL
    base = bench.base(plan.student, plan.student_pool_rate, "student")
    large = bench.base(plan.teacher, plan.teacher_pool_rate, "teacher")
    full, stopped, weights = bench.train_teacher(large)
    assert stopped is not None and weights is not None
    assert full.facts["chosen_epoch"] == stopped.facts["epoch"] == 1
    kept = np.arange(9) != 8
    for arm in ("baseline", "student", "hard_student", "student_half", "student_disjoint", "student_filtered", "smoothed"):
        fresh = deepcopy(base)
        found = bench.student(Task(0, 0, arm), fresh, large, kept if arm == "student_filtered" else None)
        assert found.facts["rows"] == (14 if arm == "student_filtered" else 17)
        assert found.facts["rule"]["unexplained"] == 0
        assert found.arrays["epoch_hits"].shape == (1, 9)
        assert found.arrays["epoch_loss"][-1] == pytest.approx(found.facts["glance_loss"])
        if arm == "baseline":
            kld, reverse = divergences(large, fresh, bench.passages.rows)
            assert (found.arrays["kld"] == kld).all() and (kld > 0).all() and (reverse > 0).all()
        if arm == "student_filtered":
            assert found.arrays["in_transfer"].tolist() == kept.tolist()
    again = bench.student(Task(0, 0, "student"), deepcopy(base), large)
    other = bench.student(Task(0, 1, "student"), deepcopy(base), large)
    twice = bench.student(Task(0, 0, "student"), deepcopy(base), large)
    assert (again.arrays["log_pz"] == twice.arrays["log_pz"]).all(), "the same seed gives the same bits"
    assert not (again.arrays["log_pz"] == other.arrays["log_pz"]).all(), "another seed is another order"
    with pytest.raises(RunError, match="needs the passages that the predictor leaves"):
        bench.student(Task(0, 0, "student_filtered"), deepcopy(base), large)


def test_a_student_trained_without_the_teacher_is_the_baseline_and_inherits_nothing(bench: Bench) -> None:
    """Planted control: at ``kd_weight`` 0 the teacher's targets have no weight, so every number is the baseline's."""
    teacher = bench.base(SMALL.teacher, SMALL.teacher_pool_rate, "teacher")
    rows = bench.passages.rows
    distill.train(teacher, rows, Lesson.text(rows), Training(60, 1e-2, 8, weight_decay=0.0), 0)
    alone = Bench(replace(SMALL, kd_weight=0.0), 0)
    base = alone.base(SMALL.student, SMALL.student_pool_rate, "student")
    baseline, student = (alone.student(Task(0, 0, arm), deepcopy(base), teacher) for arm in ("baseline", "student"))
    assert (student.arrays["log_pz"] == baseline.arrays["log_pz"]).all()
    learned = recall(teacher, rows.tokens, SMALL.text.prefix + 1)["hits"]
    found = inheritance(learned, baseline.arrays["hits"], student.arrays["hits"])
    assert found.of > 0 and found.count == 0


def test_the_teacher_is_chosen_on_held_out_loss_among_those_that_memorize() -> None:
    """Decision 18 with the pilot's own figures: epoch 3 of 215, 276, 224, 261, 358, 368, 694, 798 at a floor of 5 %."""
    loss = np.log([215, 276, 224, 261, 358, 368, 694, 798])
    counts = [0, 4, 37, 66, 87, 125, 150, 156]
    hits = np.array([np.arange(655) < n for n in counts])
    assert chosen_epoch(loss, hits, 0.05) == 3
    assert chosen_epoch(loss, hits, 0.0) == 1
    assert chosen_epoch(loss, hits, 0.5) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("teachers = []", "at least one teacher and one seed"),
        ("seeds = [0, 0]", "names one twice"),
        ('arms = ["magic"]', "unknown arm 'magic'; valid beside baseline"),
        ('arms = ["student_filtered"]', "needs arm 'scout'"),
        ("temperature = 0.0", "temperature > 0"),
        ("[text]\ncopies = [1, 2]", "lists of one length"),
        ("[text]\ncopies = [2, 1]\npassages = [1, 1]", "must rise"),
        ('[text]\nstrata = ["formulaic", "formulaic"]', "each once"),
        ('[text]\nprose = "magic"', "unknown text"),
        ("[text]\nprefix = 0", "must be at least 1"),
        ("[student]\nheads = 7", "a width that heads divides"),
        ('[teacher]\nfolder = "x"', r"folder is for \[own\]"),
        ('[own]\nteacher = "x"', "needs students"),
        ('[own]\ntext = "x"', "need a teacher"),
        ("student_pool_rate = 0.0", "learning_rate > 0"),
        ('kind = "swing"', 'kind must be "memorization"'),
        ("seeds =", "is not valid TOML"),
    ],
)
def test_a_wrong_plan_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_plan(path)


def test_what_changes_a_number_changes_the_hash() -> None:
    assert SMALL.hash == replace(SMALL, name="x", teachers=(4,), seeds=(0, 1), arms=("scout",)).hash
    assert SMALL.hash != replace(SMALL, temperature=3.0).hash != replace(SMALL, text=replace(SMALL.text, pool=17)).hash
    with pytest.raises(ConfigError, match="too few rows for"):
        Bench(replace(SMALL, text=replace(SMALL.text, pool=10**5)), 0)


@pytest.mark.slow
def test_s_the_smoke_set_up_of_the_specification() -> None:
    """Twenty-five passages of 32 copies beside singletons: the teacher knows most of the first, hardly any other."""
    net = Net(width=64, layers=2, epochs=8, batch_size=16)
    text = Text(
        "template", ("high_entropy",), "", 400, 24, 16, (1, 32), (100, 25), pool=120, extra=60, held_out=60, held_out_prose=40
    )
    bench = Bench(replace(SMALL, text=text, teacher=net), 0)
    model = bench.base(net, 2e-3, "teacher")
    untouched = bench.measure(model, {}, {})
    full, _, _ = bench.train_teacher(model)
    many = bench.passages.copies == 32
    assert untouched.facts["memorized"] == 0
    assert full.arrays["hits"][many].sum() >= 20
    assert full.arrays["hits"][~many].sum() <= 5, "measured: 1 of 100"
    assert full.facts["rule"] == {"passages": 125, "disagree": 0, "unexplained": 0}
