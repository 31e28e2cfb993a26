"""Federated swing; the letters in the names are those of specs, swing, section 12."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict
from safetensors.numpy import load_file

from clients import codec
from fedkd import outgoing
from fedkd import setting as settings
from fedkd.config import Experiment
from fedkd.errors import UploadError
from fedkd.mechanisms import swing
from fedkd.outgoing import EVERYONE
from fedkd.setting import Setting
from fedkd.store import Commit, Lines
from fedkd.types import Array, Arrays, Kinds
from fedkd.vault import Vault
from server.run_folder import JSONL
from server.strategy import MethodStrategy
from tests.small_runs import Grid, final_hash, lines, resume, run, summary
from tests.swing_rows import NEUTRAL, OTHERS, PASS, SEEDED, C, K, federation, holder, kinds_of, p_of, send, taking, using
from tests.toy import FOLLOW, refusal, toy_setting


# ----- (t) neutral ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "args",
    [
        NEUTRAL,
        f"{NEUTRAL}, temperature_high = 1.0",
        'noise_scale = 0.0, round_policy = "refresh", refresh_every = 1',
        'noise_scope = "private", round_policy = "fresh"',
        'noise_scale = 0.0, round_policy = "noise_only", prob_floor = 0.05',
    ],
)
def test_t_neutral_returns_the_same_object(args: str) -> None:
    setting = using(args)
    data, held = holder(), {}
    kinds = kinds_of(data)
    out = swing.upload(setting, 3, data, {}, held, kinds, lambda: pytest.fail("the secret was read"))
    assert out.kinds is kinds and out.held is held and out.charges == 0
    down: Kinds = {"soft_labels": {"q": kinds["soft_labels"]["p"], "i": data.train.ids}}
    back = swing.broadcast(setting, 3, 0, held, down, lambda: pytest.fail("the secret was read"))
    assert back.kinds is down and back.held is held and back.charges == 0


@pytest.mark.parametrize(
    "args",
    [
        "temperature_low = 2.0",
        "logit_range = 5.0",
        "noise_scale = 0.1",
        'round_policy = "once"',
        "warmup_rounds = 1",
        'carrier = "sampled"',
        "redraw_labels = true",
    ],
)
def test_t_each_field_alone_is_not_neutral(args: str) -> None:
    base = {"noise_scale": "0.0", "round_policy": '"fresh"'}
    name, value = args.split(" = ")
    text = ", ".join(f"{n} = {v}" for n, v in {**base, name: value}.items())
    named = [k for k in OTHERS if not (name == "redraw_labels" and k == "labels")]
    setting = toy_setting("fedd2s", mechanism_name="swing", mechanism_args=f"{text}, pass_through = {named}")
    data = holder()
    kinds = kinds_of(data)
    assert send(setting, 0, data, kinds).kinds is not kinds


def test_t_a_likelihood_above_zero_is_not_neutral() -> None:
    data = holder()
    kinds = kinds_of(data)
    assert send(using(NEUTRAL, sensitivity_args="likelihood = 0.5"), 0, data, kinds).kinds is not kinds


# ----- (u) rows alone -------------------------------------------------------------------------------------------------
def test_u_order_and_batching_do_not_change_a_release() -> None:
    setting = using(sensitivity_name="frequency", sensitivity_args="rare = 1, common = 50")
    data = holder(40)
    kinds = kinds_of(data)
    whole = p_of(send(setting, 0, data, kinds))
    order = np.random.default_rng(1).permutation(40)
    shuffled = send(setting, 0, data, taking(kinds, order))
    np.testing.assert_array_equal(p_of(shuffled), whole[order])
    for row in (0, 17, 39):
        np.testing.assert_array_equal(p_of(send(setting, 0, data, taking(kinds, [row]))), whole[[row]])
    again = send(setting, 1, data, kinds_of(data, 5), shuffled.held)
    np.testing.assert_array_equal(p_of(again), whole)


def test_u_wire_ids_are_not_the_key() -> None:
    """With upload_fraction < 1 rows travel under fresh wire ids; the release follows the true sample."""
    setting = using()
    data = holder()
    kinds = kinds_of(data)
    whole = send(setting, 0, data, kinds)
    chosen = np.array([7, 2, 9])
    renamed = taking(kinds, chosen)
    renamed["ids"] = {"i": np.arange(3, dtype=np.int32)}
    part = send(setting, 0, data, renamed, state={"pending": data.train.ids[chosen]})
    np.testing.assert_array_equal(p_of(part), p_of(whole)[chosen])
    rest = send(setting, 1, data, kinds_of(data, 4), part.held)
    assert rest.charges == K - 3, "a row that has not left in this epoch fills the cache"
    np.testing.assert_array_equal(p_of(rest)[chosen], p_of(whole)[chosen])


def test_u_clients_directions_and_samples_have_their_own_noise() -> None:
    setting = using("return_noise_scale = 0.1")
    zero = np.zeros((K, C), np.float32)
    rows = []
    for client in (0, 1):
        data = holder(client=client)
        kinds = kinds_of(data)
        kinds["soft_labels"]["p"] = zero
        rows.append(p_of(send(setting, 0, data, kinds)))
    down: Kinds = {"soft_labels": {"q": zero, "i": holder().train.ids}}
    rows.append(swing.broadcast(setting, 0, 0, {}, down, lambda: 7).kinds["soft_labels"]["q"])
    flat = np.concatenate(rows)
    assert len(np.unique(flat, axis=0)) == 3 * K


# ----- (v) epochs and charges -----------------------------------------------------------------------------------------
R = 10


@pytest.mark.parametrize(
    ("policy", "releases"),
    [
        ('round_policy = "refresh", refresh_every = 4', [0, 4, 8, 9]),  # ceil(10 / 4), and the cut of round 9 off a boundary
        ('round_policy = "refresh", refresh_every = 10', [0, 8, 9]),
        ('round_policy = "refresh", refresh_every = 1', list(range(R))),
        ('round_policy = "once"', [0]),
        ('round_policy = "fresh"', list(range(R))),
        ('round_policy = "noise_only"', list(range(R))),
    ],
)
def test_v_charges_are_those_of_the_table_and_each_is_one_entry(policy: str, releases: list[int], tmp_path: Path) -> None:
    """The toy schedule moves the cut in rounds 8 and 9 (FOLLOW); the value moves every round."""
    setting = using(policy, 'kd_after_drop = "follow"', num_server_rounds=R)
    assert [setting.module.trace(setting, t)["cut"] for t in range(R)] == FOLLOW
    data, held, vault, sent = holder(), dict[str, Array](), Vault(tmp_path), list[bytes]()
    for t in range(R):
        out = outgoing.upload(setting, t, data, {}, held, kinds_of(data, t), vault)
        held = out.held
        assert out.charges == (K if t in releases else 0)
        assert len(vault.entries()) == sum(r <= t for r in releases)
        sent.append(p_of(out).tobytes())
    for t in range(1, R):
        assert (sent[t] == sent[t - 1]) == (t not in releases), "identical bytes inside an epoch, others after it"
    assert [e["round"] for e in vault.entries()] == releases
    assert {e["charges"] for e in vault.entries()} == {K}


def test_v_an_absent_client_fills_its_cache_at_its_first_round_of_an_epoch() -> None:
    setting = using("refresh_every = 4", num_server_rounds=R)
    data = holder()
    first = send(setting, 2, data, kinds_of(data, 2))
    same = send(setting, 3, data, kinds_of(data, 3), first.held)
    later = send(setting, 7, data, kinds_of(data, 7), same.held)
    assert [first.charges, same.charges, later.charges] == [K, 0, K]
    np.testing.assert_array_equal(p_of(first), p_of(same))


def test_v_a_retried_round_is_one_charge(tmp_path: Path) -> None:
    """The state was not committed, so the round starts over: same secret, same value, same bytes, one entry."""
    setting = toy_setting("fedd2s", mechanism_name="swing", mechanism_args=PASS)
    data = holder()
    for _ in range(2):
        out = outgoing.upload(setting, 0, data, {}, {}, kinds_of(data), Vault(tmp_path))
        assert out.charges == K
    assert len(Vault(tmp_path).entries()) == 1


def test_v_a_resumed_run_ends_as_if_undisturbed_and_charges_no_less(tmp_path: Path) -> None:
    args = f"{PASS}, {SEEDED}, refresh_every = 2, return_noise_scale = 0.1"
    whole, cut = (federation(tmp_path / n, args, num_server_rounds=5) for n in ("whole", "cut"))
    expected = run(whole)

    def stop(row: dict[str, Any]) -> None:
        if row["round"] == 2:
            raise OSError("the power went")

    with pytest.raises(OSError, match="power"):
        run(cut, on_round=stop)
    folder = resume(cut)
    assert final_hash(folder) == final_hash(expected)
    assert lines(folder, "clients") == lines(expected, "clients")
    assert summary(folder)["mechanism"] == summary(expected)["mechanism"]
    ledgers = sorted((tmp_path / "whole").rglob("ledger.jsonl"))
    assert {p.parent.name for p in ledgers} == {"0", "1", "2", "server"}
    for ledger in ledgers:
        assert (tmp_path / "cut" / ledger.relative_to(tmp_path / "whole")).read_bytes() == ledger.read_bytes()


def test_v_without_noise_there_is_nothing_to_charge() -> None:
    data = holder()
    assert send(using("noise_scale = 0.0"), 0, data, kinds_of(data)).charges == 0


# ----- (w) other kinds ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("named", [[], ["features"], ["features", "ids", "labels"], [*OTHERS, "heads"]])
def test_w_kinds_that_are_not_named_are_refused_before_the_start(named: list[str]) -> None:
    said = refusal(lambda: toy_setting("fedd2s", mechanism_name="swing", mechanism_args=f"pass_through = {named}"))
    assert f"valid: pass_through = {OTHERS}" in said
    assert "\n" not in said


def test_w_a_kind_that_nobody_declared_is_refused_at_run_time() -> None:
    data = holder()
    with pytest.raises(UploadError, match="swing cannot bound heads"):
        send(using(), 0, data, {**kinds_of(data), "heads": {"h": np.ones(1, np.float32)}})


def test_w_named_kinds_pass_untouched() -> None:
    data = holder()
    kinds = kinds_of(data)
    out = send(using(), 0, data, kinds)
    assert all(out.kinds[kind] is kinds[kind] for kind in OTHERS)
    assert list(out.kinds) == list(kinds)


def test_w_what_is_not_protected_is_named_in_the_report(tmp_path: Path) -> None:
    folder = run(federation(tmp_path, f"{PASS}, {SEEDED}", report=True))
    said = summary(folder)["mechanism"]
    assert said["not_protected"] == OTHERS
    assert "No end-to-end guarantee" in said["statement"] and "the noise seed is known" in said["statement"]
    page = (folder / "report.html").read_text()
    assert f"Not protected: {', '.join(OTHERS)}, the final models." in page
    assert summary(folder)["privacy"] is None
    sizes = {r["client"]: r["num_train"] for r in lines(folder, "clients")}
    assert said["charges"] == {str(c): n for c, n in sizes.items()}  # three rounds are one epoch
    assert said["charges_max"] == max(sizes.values())


# ----- (x) what a message tells ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("scope", ["private", "all"])
def test_x_a_message_tells_neither_likelihood_nor_temperature(scope: str) -> None:
    data = holder()
    messages, charges = [], []
    for p in (0.0, 1.0):
        setting = using(f'noise_scope = "{scope}", temperature_low = 1.5', sensitivity_args=f"likelihood = {p}")
        out = send(setting, 0, data, kinds_of(data))
        messages.append(out.kinds)
        charges.append(out.charges)
    public, private = messages
    shapes = [{k: {n: (v.dtype, v.shape) for n, v in a.items()} for k, a in m.items()} for m in messages]
    assert shapes[0] == shapes[1]
    sizes = [codec.message_bytes(RecordDict({**codec.client_records(0, m)})) for m in messages]
    assert sizes[0] == sizes[1]
    assert charges[0] == charges[1], "the count of charges would tell how many rows are private"
    assert not np.array_equal(public["soft_labels"]["p"], private["soft_labels"]["p"])


# ----- (y) recipients -------------------------------------------------------------------------------------------------
def strategy(setting: Setting, folder: Path, clients: int = 4) -> MethodStrategy:
    home, commit = np.zeros(clients, np.int64), Commit.empty(clients, {})
    return MethodStrategy(setting, [1], home, None, "run", 0, commit, Lines(folder, JSONL), folder, Vault(folder / "server"))


def test_y_shared_rows_are_the_same_for_all_recipients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = using("return_noise_scale = 0.3, return_likelihood = 0.5", fraction_train=1.0)
    ids, q = holder().train.ids, kinds_of(holder())["soft_labels"]["p"]

    def consensus(*_: Any) -> tuple[Kinds, Kinds]:
        return {"soft_labels": {"q": q, "i": ids}}, {}

    monkeypatch.setattr(setting.module, "broadcast", consensus)
    s = strategy(setting, tmp_path)
    shared, own = s._down(0, [0, 1, 2, 3])
    assert own == {0: {}, 1: {}, 2: {}, 3: {}}
    assert not np.array_equal(shared["soft_labels"]["q"], q)
    later, _ = s._down(0, [2])  # a retry asks fewer
    np.testing.assert_array_equal(later["soft_labels"]["q"], shared["soft_labels"]["q"])
    assert set(s.round.held) == {"-1/i", "-1/k", "-1/q"}
    assert [e["channel"] for e in s.vault.entries()] == ["down.-1"]


def test_y_returned_rows_are_kept_per_owner_and_charged() -> None:
    setting = using("return_noise_scale = 0.3")
    ids, held, back = holder().train.ids, dict[str, Array](), dict[int, Array]()
    for client in (0, 1):
        q = kinds_of(holder())["soft_labels"]["p"]
        out = swing.broadcast(setting, 0, client, held, {"soft_labels": {"q": q, "i": ids}}, lambda: 7)
        held, back[client] = out.held, out.kinds["soft_labels"]["q"]
        assert out.charges == K
        np.testing.assert_array_equal(out.kinds["soft_labels"]["i"], ids)
    assert not np.array_equal(back[0], back[1])
    moved = kinds_of(holder(), 9)["soft_labels"]["p"]
    out = swing.broadcast(setting, 1, 0, held, {"soft_labels": {"q": moved, "i": ids}}, lambda: 7)
    np.testing.assert_array_equal(out.kinds["soft_labels"]["q"], back[0])
    assert out.charges == 0
    warm = swing.broadcast(
        using("return_likelihood = 1.0"), 0, EVERYONE, {}, {"soft_labels": {"q": moved, "i": ids}}, lambda: 7
    )
    assert np.exp(warm.kinds["soft_labels"]["q"]).max() < 0.5 and warm.charges == 0


# ----- (z) cancellation -----------------------------------------------------------------------------------------------
def releases(policy: str, scale: float, rounds: int, rows: int = 2000) -> tuple[list[Array], Array]:
    """Released probabilities by round and the top class: logits N(0, 1) plus 6 on it, near uniform in round 0."""
    experiment = Experiment(
        num_clients=4, num_server_rounds=rounds, method_name="fedd2s", method_args='schedule = "none"',
        mechanism_name="swing", mechanism_args=f'{PASS}, {SEEDED}, round_policy = "{policy}", refresh_every = {rounds}, '
        f"noise_scale = {scale}",
    )  # fmt: skip
    setting = settings.build(experiment, (1, 8, 8), 10)
    data = holder(rows, classes=10)
    stream = np.random.default_rng(0)
    final = stream.normal(size=(rows, 10)).astype(np.float32)
    final[np.arange(rows), data.train.y] += 6
    early = 0.01 * stream.normal(size=(rows, 10)).astype(np.float32)
    held: Arrays = {}
    found = []
    for t in range(rounds):
        kinds = kinds_of(data, classes=10)
        kinds["soft_labels"]["p"] = early if t == 0 and rounds == 2 else final
        out = send(setting, t, data, kinds, held)
        held = out.held
        found.append(np.exp(p_of(out).astype(np.float64)))
    return found, data.train.y


def hits(scores: Array, y: Array) -> float:
    return float((scores.argmax(1) == y).mean())


def test_z_kept_noise_cancels_in_a_difference_and_a_kept_release_does_not() -> None:
    """The table of section 11 at T = 1, b = 0.5: one release .46, cancelled .91; a kept release shows no difference at all."""
    (first, last), y = releases("noise_only", 0.5, 2)
    assert hits(last, y) == pytest.approx(0.46, abs=0.05)
    assert hits(last - first, y) == pytest.approx(0.91, abs=0.05)
    (first, last), y = releases("refresh", 0.5, 2)
    assert not (last - first).any()
    assert hits(last - first, y) == pytest.approx(0.1, abs=0.02)
    assert hits(last, y) < 0.2, "what was released first was near uniform"


def test_z_a_round_that_was_sent_but_never_committed_does_not_cancel_either(tmp_path: Path) -> None:
    """The cache was lost with the round, and the value has moved: independent noise and a second charge, in one epoch."""
    setting, vault, data = using("noise_scale = 0.5"), Vault(tmp_path), holder(2000)
    early, late = kinds_of(data), kinds_of(data)
    early["soft_labels"]["p"] = np.zeros((2000, C), np.float32)
    late["soft_labels"]["p"] = 6 * np.eye(C, dtype=np.float32)[data.train.y]
    first, again, moved = (outgoing.upload(setting, t, data, {}, {}, kinds, vault) for t, kinds in
                           ((0, early), (0, early), (1, late)))  # fmt: skip
    np.testing.assert_array_equal(p_of(first), p_of(again))
    assert [e["round"] for e in vault.entries()] == [0, 1]
    kept = using('noise_scale = 0.5, round_policy = "noise_only"')
    cancelled = [np.exp(p_of(send(kept, t, data, kinds))) for t, kinds in ((0, early), (1, late))]
    assert hits(cancelled[1] - cancelled[0], data.train.y) > 0.9
    assert hits(np.exp(p_of(moved)) - np.exp(p_of(first)), data.train.y) < 0.65


def test_z_fresh_noise_averages_out_and_a_kept_release_does_not() -> None:
    """The same table: the mean of 10 fresh draws recovers .99, one kept release stays at .46 however often it is sent."""
    fresh, y = releases("fresh", 0.5, 10)
    assert hits(np.mean(fresh, axis=0), y) > 0.95
    kept, y = releases("refresh", 0.5, 10)
    assert hits(np.mean(kept, axis=0), y) == hits(kept[0], y) == pytest.approx(0.46, abs=0.05)


# ----- (aa) the secret ------------------------------------------------------------------------------------------------
def test_aa_the_secret_is_in_no_message_state_or_run_folder(tmp_path: Path) -> None:
    experiment = federation(tmp_path, f"{PASS}, return_noise_scale = 0.1", record="messages")
    grid = Grid(experiment)
    from server.server_app import run_all

    (folder,) = run_all(grid, experiment)
    secrets = list((tmp_path / "state").rglob("secret"))
    assert {p.parent.name for p in secrets} == {"0", "1", "2", "server"}
    assert all(p.stat().st_mode & 0o777 == 0o600 for p in secrets)
    assert len({p.read_bytes() for p in secrets}) == 4
    files = [p for p in tmp_path.rglob("*") if p.is_file() and p not in secrets]
    assert any("transcript" in p.parts for p in files) and any(p.suffix == ".safetensors" for p in files)
    for secret in (p.read_bytes() for p in secrets):
        number = int.from_bytes(secret, "little")
        for form in (secret, str(number).encode(), f"{number:x}".encode()):
            assert not [p for p in files if form in p.read_bytes()]
    assert folder.is_dir()


def test_aa_noise_does_not_follow_from_the_seed_unless_it_is_said(tmp_path: Path) -> None:
    def released(name: str, args: str) -> tuple[str, Array]:
        folder = run(federation(tmp_path / name, args, record="messages"))
        return final_hash(folder), load_file(folder / "transcript/0/up-0.safetensors")["soft_labels/p"]

    (one, p), (two, q) = (released(n, PASS) for n in "ab")
    assert one != two and not np.array_equal(p, q)
    (one, r), (two, s) = (released(n, f"{PASS}, {SEEDED}") for n in "cd")
    assert one == two
    np.testing.assert_array_equal(r, s)
    assert not np.array_equal(p, r)
