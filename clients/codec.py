"""Messages: named arrays <-> Flower records, and how many bytes a client's own record takes.

Down: ``config`` {protocol, run, seed, round, clients, versions, ...}; ``shared`` once per node; ``own.<id>`` per client.
Up: per client ``<kind>.<id>``, ``metrics.<id>``, ``state.<id>``, or ``failure.<id>``; with pre-aggregation ``sum.<kind>``
and ``sum-meta`` {clients, weight} instead of the kinds. Names inside ``shared`` and ``own`` are ``<kind>/<name>``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto

from fedkd.errors import UploadError
from fedkd.types import Arrays, Kinds

PROTOCOL = 2
"""Version of the message format; both sides must agree."""

_DTYPES = frozenset({"float32", "int32", "int64", "uint8"})

Signature = tuple[tuple[str, tuple[tuple[str, str, tuple[int, ...]], ...]], ...]


def to_record(arrays: Mapping[str, np.ndarray[Any, Any]]) -> ArrayRecord:
    """Named arrays as a Flower record (values are copied)."""
    return ArrayRecord({n: FlowerArray(np.asarray(v, order="C")) for n, v in arrays.items()})


def from_record(record: ArrayRecord) -> Arrays:
    """Named arrays of a record from elsewhere; nothing is unpickled.

    Raises: UploadError for an array that is not plain NumPy of an allowed dtype.
    """
    out: Arrays = {}
    for name, value in record.items():
        try:
            array = value.numpy()
        except Exception as error:
            raise UploadError(f"{name}: not a plain array ({type(error).__name__})") from None
        if str(array.dtype) not in _DTYPES:
            raise UploadError(f"{name}: dtype {array.dtype} is not allowed on the wire")
        out[name] = array
    return out


def flatten(kinds: Mapping[str, Arrays]) -> Arrays:
    """{kind: {name: array}} -> {"kind/name": array}."""
    return {f"{kind}/{name}": v for kind, arrays in kinds.items() for name, v in arrays.items()}


def unflatten(arrays: Mapping[str, np.ndarray[Any, Any]]) -> Kinds:
    """The inverse of ``flatten``."""
    out: Kinds = {}
    for path, value in arrays.items():
        kind, _, name = path.partition("/")
        out.setdefault(kind, {})[name] = value
    return out


def client_records(client: int, kinds: Mapping[str, Arrays]) -> dict[str, ArrayRecord]:
    """One client's upload as records ``<kind>.<id>``."""
    return {f"{kind}.{client}": to_record(arrays) for kind, arrays in kinds.items()}


def read_client(content: RecordDict, client: int) -> Kinds:
    """The kinds that a client sent. Raises: UploadError."""
    suffix = f".{client}"
    kinds: Kinds = {}
    for name, record in content.items():
        if isinstance(record, ArrayRecord) and name.endswith(suffix) and not name.startswith("sum."):
            kinds[name.removesuffix(suffix)] = from_record(record)
    return kinds


def message_bytes(content: RecordDict) -> int:
    """Serialized size of a real message's content in bytes.

    A content is a list of records, so sizes add up. A record's depends on its form alone and is found by serializing once per
    form: to serialize a model and the metrics of a hundred clients only to see how long they are costs several percent.
    """
    rest, total = RecordDict(), 0
    for key, record in content.items():
        form = _form(key, record)
        if form is None:
            rest[key] = record
            continue
        if form not in _SIZES:
            if len(_SIZES) >= 4096:
                _SIZES.clear()
            _SIZES[form] = _serialized(RecordDict({key: record}))
        total += _SIZES[form]
    return total + (_serialized(rest) if rest else 0)


def _form(key: str, record: ArrayRecord | MetricRecord | ConfigRecord) -> tuple[Any, ...] | None:
    """What a record's serialized size depends on; None where it holds lists (their lengths and numbers hardly repeat)."""
    parts: list[Any] = [len(key.encode()), type(record)]
    if isinstance(record, ArrayRecord):
        parts += [(n, a.dtype, tuple(a.shape), a.stype, len(a.data)) for n, a in record.items()]
        return tuple(parts)
    for name, value in record.items():
        if isinstance(value, bool | float):
            size = 0
        elif isinstance(value, int):
            size = value.bit_length() if value >= 0 else -1 - (~value).bit_length()  # zigzag: 2 v, or 2 |v| - 1 below zero
        elif isinstance(value, str | bytes):
            size = len(value.encode() if isinstance(value, str) else value)
        else:
            return None
        parts.append((name, type(value), size))
    return tuple(parts)


_SIZES: dict[tuple[Any, ...], int] = {}


def _serialized(content: RecordDict) -> int:
    return int(recorddict_to_proto(content).ByteSize())


def upload_bytes(client: int, kinds: Mapping[str, Arrays]) -> int:
    """Serialized size of a client's own upload as if it travelled alone, in bytes (0 where it sends nothing)."""
    return _alone(_signature((f"{kind}.{_digits(client)}", arrays) for kind, arrays in kinds.items()))


def broadcast_bytes(client: int, shared: Mapping[str, Arrays], own: Mapping[str, Arrays]) -> int:
    """Serialized size of what goes down to one client as if it travelled alone, in bytes (0 for nothing)."""
    parts = (("shared", flatten(shared)), (f"own.{_digits(client)}", flatten(own)))
    return _alone(_signature((name, arrays) for name, arrays in parts if arrays))


def _digits(client: int) -> str:
    """A name as long as the client's id: sizes do not depend on which digits it has."""
    return "0" * len(str(client))


def _signature(records: Iterable[tuple[str, Arrays]]) -> Signature:
    return tuple((key, tuple((n, v.dtype.str, v.shape) for n, v in arrays.items())) for key, arrays in records)


@lru_cache(maxsize=4096)
def _alone(signature: Signature) -> int:
    # The size depends on names, dtypes and shapes alone, so zeros are serialized once per signature.
    content = RecordDict()
    for key, items in signature:
        content[key] = to_record({n: np.zeros(s, d) for n, d, s in items})
    return message_bytes(content) if signature else 0


def metric_record(metrics: Mapping[str, float | int]) -> MetricRecord:
    """Numbers of one client; Flower's metrics hold no strings and no None."""
    return MetricRecord(dict(metrics))


def config_record(values: Mapping[str, Any]) -> ConfigRecord:
    """Strings, numbers and lists of one type."""
    return ConfigRecord(dict(values))
