"""Laws of every file in ``fedkd/mechanisms``: a new file is tested before its author writes a test.

`NEUTRAL` gives a file's arguments at which it must change nothing; a new file needs one entry there.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedkd import outgoing, plugins
from fedkd.plugins import field_docs
from fedkd.setting import Setting
from fedkd.store import digest
from fedkd.types import ROW_KINDS, Arrays
from fedkd.uploads import check
from fedkd.vault import Vault
from tests.small_runs import final_hash, lines, run, small
from tests.swing_rows import OTHERS, PASS, SEEDED
from tests.toy import History, federate, toy_setting

NAMES = plugins.available("mechanisms")
NEUTRAL = {
    "none": "", "swing": 'noise_scale = 0.0, round_policy = "fresh"', "dpsgd": "clip = inf, noise_multiplier = 0.0",
    "user_clip_noise": "clip = inf, noise_multiplier = 0.0", "clip_noise": "clip = inf, noise_scale = 0.0",
    "pool": "group = 1", "permute": "every = 0",
}  # fmt: skip
ROWS = 'pass_through = ["features", "ids", "labels", "soft_labels"]'
ACTIVE = {
    "none": "", "swing": f"{PASS}, {SEEDED}, return_noise_scale = 0.1", "dpsgd": f"{ROWS}, {SEEDED}",
    "user_clip_noise": f"{ROWS}, {SEEDED}", "clip_noise": f'pass_through = ["labels", "weights"], {SEEDED}',
    "pool": "group = 4", "permute": SEEDED,
}  # fmt: skip
"""Arguments with which a file acts on every hook that it has."""
OPEN = {
    "swing": OTHERS, "dpsgd": ["features", "ids", "labels", "soft_labels"], "clip_noise": ["labels", "weights"],
    "user_clip_noise": ["features", "ids", "labels", "soft_labels"],
    "pool": sorted([*OTHERS, "soft_labels"]), "permute": sorted([*OTHERS, "soft_labels"]),
}  # fmt: skip
"""What each leaves unprotected when FedD2S sends features."""
HOOKS = {
    "check": ["setting"],
    "local": ["setting", "round", "data", "job", "secret"],
    "deltas": ["setting"],
    "upload": ["setting", "round", "data", "state", "held", "kinds", "secret"],
    "download": ["setting", "round", "held", "kinds"],
    "combine": ["setting", "round", "uploads", "secret"],
    "cost": ["setting", "round", "data"],
    "claim": ["setting"],
    "broadcast": ["setting", "round", "client", "held", "kinds", "secret"],
    "notes": ["setting"],
}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def module(name: str) -> ModuleType:
    return plugins.find("mechanisms", name)


@pytest.fixture(scope="module")
def history() -> History:
    """Six rounds of the toy federation with features, three of four clients a round."""
    return federate(toy_setting("fedd2s"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small run without a mechanism."""
    return run(small(tmp_path_factory.mktemp("bare"), method_name="fedd2s"))


def test_the_folder_has_its_files() -> None:
    known = {"none", "swing", "dpsgd", "user_clip_noise", "clip_noise", "pool", "permute"}
    assert known <= set(NAMES) == set(NEUTRAL) == set(ACTIVE)


def test_config_is_frozen_with_defaults_and_docstrings(module: ModuleType) -> None:
    assert dataclasses.is_dataclass(module.Config)
    assert module.Config.__dataclass_params__.frozen
    assert module.Config() == module.Config()
    assert set(field_docs(module.Config)) == {f.name for f in dataclasses.fields(module.Config)}


def test_hooks_have_the_signature_of_the_seam(module: ModuleType) -> None:
    for hook, parameters in HOOKS.items():
        function = getattr(module, hook, None)
        if function is not None:
            assert list(inspect.signature(function).parameters) == parameters, hook
            assert inspect.getdoc(function), hook


def test_i16_neutral_parameters_are_the_identity_over_a_run(name: str, bare: Path, tmp_path: Path) -> None:
    """I16: the same final hash, bytes and rows as without, over Flower's messages in process."""
    keys = {"method_name": "fedd2s", "mechanism_name": name, "mechanism_args": NEUTRAL[name]}
    folder = run(small(tmp_path, **keys))
    assert final_hash(folder) == final_hash(bare)
    for file in ("rounds", "clients"):
        assert lines(folder, file) == lines(bare, file)


def test_an_active_run_repeats_bit_for_bit_and_charges_what_it_released(name: str, bare: Path, tmp_path: Path) -> None:
    def once(where: str) -> Path:
        keys = {"method_name": "fedd2s", "mechanism_name": name, "mechanism_args": ACTIVE[name]}
        return run(small(tmp_path / where, **keys))

    first, second = once("a"), once("b")
    assert final_hash(first) == final_hash(second)
    if name != "none":
        assert final_hash(first) != final_hash(bare)
    rows, plain = lines(first, "clients"), lines(bare, "clients")
    assert [(r["bytes_up"], r["bytes_down"]) for r in rows] == [(r["bytes_up"], r["bytes_down"]) for r in plain]
    folders = {str(c): next((tmp_path / "a" / "state").glob(f"*/{c}")) for c in range(3)}
    for client, folder in folders.items():
        charged = sum(e["charges"] for e in Vault(folder).entries())
        assert charged == sum(r.get("charges", 0) for r in rows if str(r["client"]) == client)


def test_a_protected_upload_is_still_what_the_method_declared(name: str, history: History, tmp_path: Path) -> None:
    """Shapes, dtypes and ranges pass the server's check; kinds without rows are the same objects; nothing is written to."""
    setting = toy_setting("fedd2s", mechanism_name=name, mechanism_args=ACTIVE[name])
    for t, uploads in enumerate(history.uploads):
        for client, u in uploads.items():
            before = digest(flat := {f"{k}/{n}": v for k, a in u.kinds.items() for n, v in a.items()})
            state, data = history.states[t][client], history.clients[client]
            out = outgoing.upload(setting, t, data, state, {}, u.kinds, Vault(tmp_path / str(client)))
            check(setting.module.schema(setting, t), dataclasses.replace(u, kinds=out.kinds), 2.0**20)
            summed = outgoing._deltas(setting)
            assert all(out.kinds[kind] is u.kinds[kind] for kind in u.kinds if kind not in ROW_KINDS | summed)
            assert digest(flat) == before
            assert {str(v.dtype) for v in out.held.values()} <= {"float32", "int32", "int64", "uint8"}


def test_methods_never_see_what_a_mechanism_holds(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every state that reaches a method is free of the mechanism's names, on the client and on the server."""
    module = plugins.find("methods", "fedd2s")
    seen: list[str] = []
    for function in ("prepare", "finish", "evaluate_with", "broadcast", "aggregate"):
        real = getattr(module, function)

        def spy(setting: Setting, state: Arrays, *rest: Any, real: Callable[..., Any] = real) -> Any:
            seen.extend(state)
            return real(setting, state, *rest)

        monkeypatch.setattr(module, function, spy)
    keys = {"method_name": "fedd2s", "mechanism_name": name, "mechanism_args": ACTIVE[name], "score": "after_average"}
    run(small(tmp_path, **keys))
    assert seen and not [n for n in seen if n.startswith(outgoing.PREFIX)]


def test_every_kind_is_named_or_refused(name: str, module: ModuleType) -> None:
    """A file with an upload hook accounts for each kind that FedD2S sends: protected, or named as not protected."""
    if not hasattr(module, "upload"):
        return
    setting = toy_setting("fedd2s", mechanism_name=name, mechanism_args=ACTIVE[name])
    assert outgoing.notes(setting)["not_protected"] == OPEN[name]
