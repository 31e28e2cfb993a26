"""Prepare a data set once for all clients and runs: rows, index lists and a meta file, in a folder named by their hash.

Whoever starts a run calls ``prepare``; clients call ``open_data`` and memory-map. A finished folder is reused without
the data set's library or flwr-datasets. Files: ``x.npy``, ``y.npy`` (a sample's id is its row number), ``rows.npy``
(its row in the data set), ``{train,val,test,extra}.npy`` with ``*_offsets.npy``, ``histogram.npy``, ``holdout.npy``,
``canaries.npz``, ``public.npy`` where there are public transfer rows, ``meta.json``. A generating data set has ``sizes.npy``
and ``meta.json``, and its rows with ``starts.npy`` where they are few.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fedkd import plugins
from fedkd.allocation import PARTS, Allocation, allocate
from fedkd.config import Experiment, digest8, parse_args
from fedkd.dataset import Spec, Table, file_sha256
from fedkd.errors import ConfigError, DataError
from fedkd.partition import config_of, split, split_sizes
from fedkd.store import sync_folder
from fedkd.types import Array, ClientData, Split

FORMAT = 2
"""Version of the folder's layout and of every draw that fills it; part of the hash."""

STORED = 1 << 12, 1 << 30
"""A generating data set of up to this many clients and bytes of rows is stored; a larger one is made client by client."""

SMALL = 1 << 18
"""Files up to this many bytes are hashed at every opening; of larger ones the size is checked."""


def data_hash(experiment: Experiment) -> str:
    """Eight hex digits over what determines the rows and the index lists (not where the files come from).

    Raises: ConfigError for an unknown data set or partition, or a wrong field.
    """
    return digest8(_determining(experiment))


def prepare(experiment: Experiment, state_root: Path) -> Path:
    """The prepared folder ``<state_root>/data/<hash>``, written once; two processes may race, both get the same folder.

    Raises: DataError for missing or wrong data files; ConfigError for draws that are impossible or a folder that cannot
    be written.
    """
    target = state_root / "data" / data_hash(experiment)
    if target.exists():
        open_data(target)
        return target
    module, config = _plugin(experiment)
    made = [folder for folder in (target.parent, state_root) if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise ConfigError(f"cannot write prepared data below {target.parent}: {error.strerror}") from None
    try:
        if hasattr(module, "generate"):
            arrays, facts = _generated(experiment, module, config)
        else:
            arrays, facts = _stored(experiment, module.spec(config), module.load(config, experiment.data_root))
        _write(folder, arrays, _meta(experiment, module.spec(config), facts))
        _rename(folder, target)
    except OSError as error:
        raise ConfigError(f"cannot write prepared data below {target.parent}: {error.strerror}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # refused: nothing is left behind, not even the folders that were made for it
            for empty in made:
                empty.rmdir()
    return target


@dataclass(frozen=True)
class Prepared:
    """A prepared data set, memory-mapped."""

    path: Path
    """its folder"""
    meta: dict[str, Any]
    """the content of meta.json"""
    arrays: dict[str, Array]
    """file stem -> array"""

    @property
    def num_clients(self) -> int:
        """N, the population."""
        return int(self.meta["num_clients"])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.meta["spec"]["shape"])

    @property
    def classes(self) -> int:
        """C, the number of classes."""
        return int(self.meta["spec"]["classes"])

    @cached_property
    def sizes(self) -> Array:  # [N] int64
        """K_n, the number of training samples per client."""
        if "sizes" in self.arrays:
            return np.asarray(self.arrays["sizes"])
        return np.diff(np.asarray(self.arrays["train_offsets"]))

    @cached_property
    def histogram(self) -> Array:  # [N, C] int64
        """Label counts of what each client holds (train, val and test; unseen test rows not counted).

        A generating data set makes every client for it: use it for populations that fit a figure.
        """
        if "histogram" in self.arrays:
            return np.asarray(self.arrays["histogram"])
        rows = [np.bincount(self._table(n).y, minlength=self.classes) for n in range(self.num_clients)]
        return np.array(rows, dtype=np.int64).reshape(self.num_clients, self.classes)

    def client(self, n: int) -> ClientData:
        """All that client ``n`` holds, the unseen test rows included. Raises: ConfigError for an unknown id."""
        if not 0 <= n < self.num_clients:
            raise ConfigError(f"client {n} does not exist; this data has clients 0 to {self.num_clients - 1}")
        if "stride" in self.meta:
            first = n * int(self.meta["stride"])
            if "starts" in self.arrays:
                own = slice(*self.arrays["starts"][n : n + 2])
                x, y, lists = self.arrays["x"][own], self.arrays["y"][own], self._lists(n, PARTS[:3])
            else:
                table = self._table(n)
                x, y, lists = table.x, table.y, split(table.y, np.arange(len(table)), int(self.meta["seed"]), n)
        else:
            train, val, test, extra = self._lists(n, PARTS)
            lists = train, val, np.sort(np.concatenate([test, extra]))
            x, y, first = self.arrays["x"], self.arrays["y"], 0
        parts = [Split(_taken(x, i), _taken(y, i), (i + first).astype(np.int32)) for i in lists]
        return ClientData(n, parts[0], parts[1], parts[2], self.public)

    def _lists(self, n: int, parts: tuple[str, ...]) -> tuple[Array, ...]:
        return tuple(self.arrays[p][slice(*self.arrays[f"{p}_offsets"][n : n + 2])] for p in parts)

    @cached_property
    def public(self) -> Split | None:
        """The public transfer rows; of a generating data set they are those of clients N, N + 1, ... that nobody is."""
        size = int(self.meta["keys"].get("public_samples", 0))
        if size == 0:
            return None
        if "stride" not in self.meta:
            rows = np.asarray(self.arrays["public"])
            return Split(np.asarray(self.arrays["x"][rows]), np.asarray(self.arrays["y"][rows]), rows.astype(np.int32))
        tables: list[Table] = []
        while sum(map(len, tables)) < size:
            tables.append(self._table(self.num_clients + len(tables)))
        ids = (np.arange(size) + self.num_clients * int(self.meta["stride"])).astype(np.int32)
        return Split(np.concatenate([t.x for t in tables])[:size], np.concatenate([t.y for t in tables])[:size], ids)

    def _table(self, n: int) -> Table:
        module, config = self._source
        table: Table = module.generate(config, int(self.meta["seed"]), n)
        return table

    @cached_property
    def _source(self) -> tuple[ModuleType, Any]:
        module = plugins.find("data", self.meta["keys"]["data"])
        return module, parse_args(self.meta["data_args"], module.Config, "data.args")


def _taken(array: Array, rows: Array) -> Array:  # rows [K] ascending
    """The rows: mapped where they lie side by side, else copied."""
    together = len(rows) > 0 and int(rows[-1]) - int(rows[0]) == len(rows) - 1
    return array[int(rows[0]) : int(rows[-1]) + 1] if together else np.asarray(array[rows])


def open_data(path: Path) -> Prepared:
    """Open a prepared folder, checking format, hash, file sizes and the hashes of the small files.

    Raises: DataError where something is missing, damaged or of another format, saying what to remove.
    """
    redo = f"remove {path} and start again"
    try:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(f"{path} has no readable meta.json, so it is no prepared data; {redo}") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise DataError(f"{path} has not the format {FORMAT} of this version; {redo}")
    if meta.get("hash") != digest8(meta.get("keys", {})):
        raise DataError(f"{path}/meta.json does not match its own hash {meta.get('hash')}; {redo}")
    arrays: dict[str, Array] = {}
    for name, pin in meta["files"].items():
        file = path / name
        if not file.is_file() or file.stat().st_size != pin["bytes"]:
            raise DataError(f"{file} is missing or has not {pin['bytes']} bytes; {redo}")
        if pin["bytes"] <= SMALL and file_sha256(file) != pin["sha256"]:
            raise DataError(f"{file} does not match its sha256; {redo}")
        if file.suffix == ".npy":
            # still mapped: a plain view, because each slice of an np.memmap costs more than its rows
            arrays[file.stem] = np.load(file, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    return Prepared(path, meta, arrays)


def _plugin(experiment: Experiment) -> tuple[ModuleType, Any]:
    module = plugins.find("data", experiment.data_name)
    return module, parse_args(experiment.data_args, module.Config, "data.args")


def _determining(e: Experiment) -> dict[str, Any]:
    _, config = _plugin(e)
    return {
        "format": FORMAT,
        "seed": e.seed,
        "data": e.data_name,
        "data_config": dataclasses.asdict(config),
        "max_samples": e.max_samples,
        "num_clients": e.num_clients,
        "partition": e.partition_name,
        "partition_config": dataclasses.asdict(config_of(e.partition_name, e.partition_args)),
        "min_client_samples": e.min_client_samples,
        "extra_test": e.extra_test,
        "audit_holdout": e.audit_holdout,
        "audit_canaries": e.audit_canaries,
        **({"public_samples": e.public_samples} if e.public_samples else {}),
    }


def _meta(e: Experiment, spec: Spec, facts: dict[str, Any]) -> dict[str, Any]:
    keys = json.loads(json.dumps(_determining(e)))
    return {
        "format": FORMAT,
        "hash": digest8(keys),
        "keys": keys,
        "seed": e.seed,
        "num_clients": e.num_clients,
        "data_args": e.data_args,
        "spec": dataclasses.asdict(spec),
        "versions": {name: package_version(name) for name in ("flwr-datasets", "numpy", "scikit-learn")},
        **facts,
    }


def _stored(e: Experiment, spec: Spec, table: Table) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays by file name and facts for meta.json, for a data set with a table."""
    _check_table(spec, table)
    allocation = allocate(e, table.y, table.groups, spec.classes, table.part)
    used = allocation.used()
    place = np.zeros(len(table), dtype=np.int32)
    place[used] = np.arange(len(used), dtype=np.int32)
    x = np.ascontiguousarray(table.x[used])
    labels = allocation.labels.astype(np.int32)
    arrays: dict[str, Any] = {"x.npy": x, "y.npy": labels[used], "rows.npy": used.astype(np.int32)}
    for part, lists in allocation.parts.items():
        arrays[f"{part}.npy"] = place[np.concatenate(lists)]
        arrays[f"{part}_offsets.npy"] = _offsets([len(rows) for rows in lists])
    held = [allocation.held(n) for n in range(e.num_clients)]
    arrays["histogram.npy"] = np.array([np.bincount(labels[rows], minlength=spec.classes) for rows in held])
    arrays["holdout.npy"] = place[allocation.holdout]
    if e.public_samples:
        arrays["public.npy"] = place[allocation.public]
    canaries = allocation.canaries
    owner = np.full(len(table), -1, dtype=np.int32)
    for n, rows in enumerate(held):
        owner[rows] = n
    arrays["canaries.npz"] = {
        "ids": place[canaries.rows],
        "true_labels": canaries.true_labels,
        "given_labels": canaries.given_labels,
        "member": canaries.member,
        "client": owner[canaries.rows],
    }
    return arrays, _facts(e, allocation, x, place, len(table))


def _facts(e: Experiment, allocation: Allocation, x: Array, place: Array, available: int) -> dict[str, Any]:
    digests = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in x]
    rows = {part: place[np.unique(np.concatenate(lists))] for part, lists in allocation.parts.items()}
    trained = {digests[i] for i in rows["train"]}
    tested = np.union1d(rows["test"], rows["extra"])
    extra = [len(lists) for lists in allocation.parts["extra"]]
    facts: dict[str, Any] = {
        "counts": {
            "available": available,
            "rows": len(x),
            **{part: int(sum(map(len, lists))) for part, lists in allocation.parts.items()},
            "holdout": len(allocation.holdout),
            "canaries": len(allocation.canaries.rows),
            "canary_members": int(allocation.canaries.member.sum()),
            **({"public": len(allocation.public)} if e.public_samples else {}),
        },
        "duplicates": {
            "rows": len(digests) - len(set(digests)),
            "test_rows_equal_to_a_train_row": int(sum(digests[i] in trained for i in tested)),
        },
    }
    if e.extra_test:
        short = sum(n < e.extra_test for n in extra)
        facts["extra_test"] = {"asked": e.extra_test, "smallest": min(extra), "clients_with_fewer": short}
    return facts


def _generated(e: Experiment, module: ModuleType, config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sizes and facts for rows made from the client id. Raises: ConfigError for keys that need a table."""
    for key, value in (("max-samples", e.max_samples), ("extra-test", e.extra_test),
                       ("audit.holdout", e.audit_holdout), ("audit.canaries", e.audit_canaries)):  # fmt: skip
        if value:
            raise ConfigError(f"{key} = {value} needs a data set with a table; {e.data_name} is made per client, use 0")
    totals = np.array([module.size(config, e.seed, n) for n in range(e.num_clients)], dtype=np.int64)
    if totals.min() < e.min_client_samples:
        raise ConfigError(
            f"{e.data_name} gives its smallest client {totals.min()} samples, min-client-samples asks for "
            f"{e.min_client_samples}; set a smaller minimum"
        )
    stride = int(totals.max())
    if stride * e.num_clients + e.public_samples >= 2**31:
        raise ConfigError(f"num-clients = {e.num_clients} clients of up to {stride} samples exceed int32 sample ids")
    sizes = np.array([split_sizes(int(n))[0] for n in totals], dtype=np.int64)
    facts = {"stride": stride, "counts": {"available": int(totals.sum()), "train": int(sizes.sum())}}
    few = len(totals) <= STORED[0] and 4 * int(totals.sum()) * int(np.prod(module.spec(config).shape)) <= STORED[1]
    return {"sizes.npy": sizes, **(_made(e, module, config) if few else {})}, facts


def _made(e: Experiment, module: ModuleType, config: Any) -> dict[str, Any]:
    """The rows of every client, one after the other, and its lists by place among its own rows."""
    tables = [module.generate(config, e.seed, n) for n in range(e.num_clients)]
    lists = [split(t.y, np.arange(len(t)), e.seed, n) for n, t in enumerate(tables)]
    arrays: dict[str, Any] = {
        "x.npy": np.concatenate([t.x for t in tables]),
        "y.npy": np.concatenate([t.y for t in tables]),
        "starts.npy": _offsets([len(t) for t in tables]),
    }
    for position, part in enumerate(("train", "val", "test")):
        rows = [own[position].astype(np.int32) for own in lists]
        arrays[f"{part}.npy"], arrays[f"{part}_offsets.npy"] = np.concatenate(rows), _offsets([len(r) for r in rows])
    return arrays


def _offsets(lengths: list[int]) -> Array:  # [N] -> [N + 1] int64
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _check_table(spec: Spec, table: Table) -> None:
    """Raises: DataError where the table is not what the spec says."""
    n = len(table.y)
    if table.x.shape != (n, *spec.shape) or table.x.dtype != np.float32 or table.y.dtype != np.int32:
        raise DataError(
            f"{spec.name}: x is {table.x.dtype} {table.x.shape}, y {table.y.dtype} {table.y.shape}; "
            f"expected float32 and int32 for {n} examples of shape {spec.shape}"
        )
    if n == 0 or table.y.min() < 0 or table.y.max() >= spec.classes:
        raise DataError(f"{spec.name}: there are no rows, or a label lies outside 0..{spec.classes - 1}")
    if not np.isfinite(table.x).all():
        raise DataError(f"{spec.name}: x holds values that are not finite")


def _write(folder: Path, arrays: dict[str, Any], meta: dict[str, Any]) -> None:
    """Write arrays and, last, meta.json with their hashes; everything is on disk when this returns."""
    files = {}
    for name, value in arrays.items():
        with (folder / name).open("wb") as file:
            if isinstance(value, dict):
                np.savez(file, allow_pickle=False, **value)
            else:
                np.save(file, value, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        files[name] = {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
    with (folder / "meta.json").open("w", encoding="utf-8") as text:
        json.dump({**meta, "files": files}, text, indent=1, sort_keys=True)
        text.flush()
        os.fsync(text.fileno())
    sync_folder(folder)


def _rename(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError:
        if not (target / "meta.json").is_file():
            raise
        return  # another process was first; its folder holds the same bytes
    sync_folder(target.parent)


def package_version(package: str) -> str:
    """The installed version, or "" where the package is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
