"""DP-SGD as a mechanism: steps and rates, keys, refusals; the steps themselves are in tests/test_noisy_sgd.py."""

from __future__ import annotations

import pytest

from fedkd.jobs import local_job
from fedkd.mechanisms import dpsgd
from fedkd.setting import Setting
from tests.toy import refusal, toy_clients, toy_setting


def using(args: str = "", **keys: object) -> Setting:
    return toy_setting("fedavg", mechanism_name="dpsgd", mechanism_args=args, **keys)


@pytest.mark.parametrize(
    ("args", "rows", "expected"),
    [("", 70, (5, 16 / 70)), ("", 16, (1, 1.0)), ("", 9, (1, 1.0)), ("sampling_rate = 0.3", 70, (4, 0.3))],
)
def test_steps_and_rate(args: str, rows: int, expected: tuple[int, float]) -> None:
    assert dpsgd.plan(using(args), rows) == expected
    assert dpsgd.plan(using(args, local_epochs=3), rows) == (3 * expected[0], expected[1])


def test_with_a_fixed_rate_nothing_follows_from_the_number_of_examples() -> None:
    setting = using("sampling_rate = 0.25")
    assert len({dpsgd.cost(setting, 0, c) for c in toy_clients()}) == 1
    claim = dpsgd.claim(setting)
    assert claim is not None and "K_n" not in claim.covers
    assert "K_n" in (dpsgd.claim(using()) or claim).covers


def test_noise_is_keyed_by_secret_round_and_what_it_starts_from() -> None:
    setting, data = using(), toy_clients()[0]

    def key(secret: int = 1, round: int = 0, shift: float = 0.0) -> int:
        start = {n: v + shift for n, v in setting.initial().items()}
        job = dpsgd.local(setting, round, data, local_job(setting, round, data, start), lambda: secret)
        assert job.noisy is not None
        return job.noisy.key

    assert key() == key()
    assert len({key(), key(secret=2), key(round=1), key(shift=1e-3)}) == 4


def test_rounds_after_the_last_upload_are_not_charged() -> None:
    setting = toy_setting("fedavg", "local_share = 0.5", mechanism_name="dpsgd", num_server_rounds=4)
    assert [bool(dpsgd.cost(setting, t, toy_clients()[0])) for t in range(4)] == [True, True, False, False]


def test_bad_values_are_refused() -> None:
    assert "sampling_rate = 2.0" in refusal(lambda: dpsgd.Config(sampling_rate=2.0))
    assert "clip = -1.0" in refusal(lambda: dpsgd.Config(clip=-1.0))
    assert "dpsgd cannot bound" in refusal(lambda: toy_setting("fedd2s", mechanism_name="dpsgd"))
