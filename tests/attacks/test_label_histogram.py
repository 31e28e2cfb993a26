"""Label disclosure from per-class evidence."""

import numpy as np
import pytest

from fedkd.attacks import label_histogram


def federation(clients: int = 20, classes: int = 10, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(classes, 0.3), size=clients)
    return np.stack([rng.multinomial(100, share) for share in shares])


def test_row_counts_give_the_labels_away_exactly() -> None:
    counts = federation()
    report = label_histogram.audit(label_histogram.Config(), class_mass=counts, label_counts=counts)
    assert (report.kl, report.total_variation, report.top_class.value) == (0.0, 0.0, 1.0)
    assert report.leak_shown
    assert report.gain.value == pytest.approx(report.blind_total_variation)
    assert report.swapped_total_variation > 0.3


def test_messages_without_labels_show_nothing() -> None:
    counts = federation()
    report = label_histogram.audit(label_histogram.Config(), class_mass=np.ones((20, 10)), label_counts=counts)
    assert not report.leak_shown
    shuffled = np.random.default_rng(1).permutation(counts)
    assert not label_histogram.audit(label_histogram.Config(), class_mass=shuffled, label_counts=counts).leak_shown


def test_distances_by_hand() -> None:
    """Truths (1, 0), (0, 1); estimates (3/4, 1/4), (1/2, 1/2): TV 1/4 and 1/2. Blind: the other's, TV 1 and 1."""
    config = label_histogram.Config(smoothing=1e-9)
    report = label_histogram.audit(config, class_mass=[[3.0, 1.0], [1.0, 1.0]], label_counts=[[4, 0], [0, 2]])
    assert report.total_variation == pytest.approx(0.375)
    assert report.blind_total_variation == pytest.approx(1.0)
    assert report.gain.value == pytest.approx(0.625)
    assert report.kl == pytest.approx((np.log(4 / 3) + np.log(2)) / 2, abs=1e-6)


def test_score_is_one_number_per_client_and_class() -> None:
    mass = np.array([[2.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    score = label_histogram.score(label_histogram.Config(), class_mass=mass)
    assert score == pytest.approx([0.5, 0.5, 0.0, 1 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize(
    ("mass", "counts", "line"),
    [
        ([[1.0, -1.0], [1.0, 1.0]], [[1, 1], [1, 1]], "not negative"),
        ([[1.0, np.nan], [1.0, 1.0]], [[1, 1], [1, 1]], "finite"),
        ([1.0, 2.0], [[1, 1]], "clients, classes"),
        ([[1.0, 1.0]], [[1, 1]], "at least two clients"),
        ([[1.0, 1.0], [1.0, 1.0]], [[1, 1], [0, 0]], "at least one label"),
    ],
)
def test_refusals(mass, counts, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        label_histogram.audit(label_histogram.Config(), class_mass=mass, label_counts=counts)


def test_smoothing_must_be_a_share() -> None:
    with pytest.raises(ValueError, match="smoothing"):
        label_histogram.audit(label_histogram.Config(smoothing=0.0), class_mass=np.eye(2), label_counts=np.eye(2))
