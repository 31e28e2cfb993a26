"""Messages: one golden message, sizes that equal what is really sent, and records that are refused unread."""

from __future__ import annotations

import base64
import io
import pickle
from typing import Any

import numpy as np
import pytest
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from hypothesis import given
from hypothesis import strategies as st

from clients import codec
from fedkd.errors import UploadError
from fedkd.types import Kinds

GOLDEN = (
    "CpYBCgZjb25maWciiwEKDgoIcHJvdG9jb2wSAhAECgwKA3J1bhIFKgNyLTAKCwoFaW5kZXgSAhAGCgsKBXJvdW5kEgIQBAoS"
    "CgdjbGllbnRzEgeyAQQKAggSChMKCHZlcnNpb25zEgeyAQQKAgECCgwKBnJlZHVjZRICIAAKGgoFa2luZHMSEcoBDgoDaWRz"
    "Cgd3ZWlnaHRzCoADCgZzaGFyZWQS9QIKwQEKFXdlaWdodHMvYmxvY2sxLndlaWdodBKnAQoHZmxvYXQzMhICAQIaDW51bXB5"
    "Lm5kYXJyYXkiiAGTTlVNUFkBAHYAeydkZXNjcic6ICc8ZjQnLCAnZm9ydHJhbl9vcmRlcic6IEZhbHNlLCAnc2hhcGUnOiAo"
    "MSwgMiksIH0gICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgCgAAwD8A"
    "AADACq4BCgVpZHMvaRKkAQoFaW50MzISAQIaDW51bXB5Lm5kYXJyYXkiiAGTTlVNUFkBAHYAeydkZXNjcic6ICc8aTQnLCAn"
    "Zm9ydHJhbl9vcmRlcic6IEZhbHNlLCAnc2hhcGUnOiAoMiwpLCB9ICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg"
    "ICAgICAgICAgICAgICAgICAgICAgICAgICAgCgcAAAAIAAAA"
)
"""The message of ``golden_content``, serialized by Flower 1.41 at protocol 2. Where it changes, raise ``PROTOCOL``."""


def kinds() -> Kinds:
    return {
        "weights": {"block1.weight": np.array([[1.5, -2.0]], np.float32)},
        "ids": {"i": np.array([7, 8], np.int32)},
    }


def golden_content() -> RecordDict:
    head = {"protocol": codec.PROTOCOL, "run": "r-0", "index": 3, "round": 2, "clients": [4, 9], "versions": [-1, 1],
            "reduce": False, "kinds": ["ids", "weights"]}  # fmt: skip
    return RecordDict({"config": codec.config_record(head), "shared": codec.to_record(codec.flatten(kinds()))})


def serialized(content: RecordDict) -> bytes:
    return bytes(recorddict_to_proto(content).SerializeToString(deterministic=True))


def same(a: Kinds, b: Kinds) -> None:
    assert {k: list(v) for k, v in a.items()} == {k: list(v) for k, v in b.items()}
    for kind, arrays in a.items():
        for name, value in arrays.items():
            assert value.dtype == b[kind][name].dtype
            assert value.shape == b[kind][name].shape
            assert value.tobytes() == b[kind][name].tobytes()


def test_the_golden_message_is_written_byte_for_byte() -> None:
    assert serialized(golden_content()) == base64.b64decode(GOLDEN)


def test_the_golden_message_is_read() -> None:
    content = recorddict_from_proto(ProtoRecordDict.FromString(base64.b64decode(GOLDEN)))
    assert content["config"] == golden_content()["config"]
    shared = content["shared"]
    assert isinstance(shared, ArrayRecord)
    same(codec.unflatten(codec.from_record(shared)), kinds())


@given(
    shape=st.lists(st.integers(0, 3), max_size=3).map(tuple),
    dtype=st.sampled_from(["float32", "int32", "int64", "uint8"]),
)
def test_arrays_travel_bit_for_bit_with_dtype_and_shape(shape: tuple[int, ...], dtype: str) -> None:
    raw = np.random.default_rng(3).integers(0, 255, int(np.prod(shape)) * 8, dtype=np.uint8).tobytes()
    value = np.frombuffer(raw, dtype)[: int(np.prod(shape))].reshape(shape)
    sent = {"k": {"a": value, "b": np.asfortranarray(value)}}
    content = RecordDict({"x": codec.to_record(codec.flatten(sent))})
    came = recorddict_from_proto(ProtoRecordDict.FromString(serialized(content)))["x"]
    assert isinstance(came, ArrayRecord)
    same(codec.unflatten(codec.from_record(came)), sent)


def test_names_with_slashes_and_dots_survive_flattening() -> None:
    value = {"weights": {"a.b/c": np.zeros(1, np.float32)}, "heads": {"a.b/c": np.ones(1, np.float32)}}
    same(codec.unflatten(codec.flatten(value)), value)


def test_a_client_reads_its_own_records_alone() -> None:
    content = RecordDict({**codec.client_records(1, kinds()), **codec.client_records(11, kinds())})
    content["sum.1"] = codec.to_record({"x": np.zeros(1, np.int64)})
    content["metrics.1"] = codec.metric_record({"num-examples": 1})
    same(codec.read_client(content, 1), kinds())
    assert codec.read_client(content, 2) == {}


# ----- sizes ---------------------------------------------------------------
def test_upload_bytes_are_the_serialized_size_of_the_clients_own_records() -> None:
    for client in (0, 7, 123456):
        content = RecordDict(codec.client_records(client, kinds()))
        assert codec.upload_bytes(client, kinds()) == len(serialized(content)) == codec.message_bytes(content)
    assert codec.upload_bytes(0, {}) == 0


def test_broadcast_bytes_are_shared_and_own_together() -> None:
    own: Kinds = {"soft_labels": {"q": np.ones((3, 10), np.float32)}}
    both = {"shared": codec.to_record(codec.flatten(kinds())), "own.5": codec.to_record(codec.flatten(own))}
    assert codec.broadcast_bytes(5, kinds(), own) == len(serialized(RecordDict(both)))
    assert codec.broadcast_bytes(5, kinds(), {}) == len(serialized(RecordDict({"shared": both["shared"]})))
    assert codec.broadcast_bytes(5, {}, own) == len(serialized(RecordDict({"own.5": both["own.5"]})))
    assert codec.broadcast_bytes(5, {}, {}) == 0


def test_sizes_depend_on_shapes_and_not_on_values() -> None:
    zeros: Kinds = {"weights": {"w": np.zeros((40, 3), np.float32)}}
    values: Kinds = {"weights": {"w": np.full((40, 3), np.pi, np.float32)}}
    larger: Kinds = {"weights": {"w": np.zeros((41, 3), np.float32)}}
    assert codec.upload_bytes(0, zeros) == codec.upload_bytes(0, values) == codec.upload_bytes(0, larger) - 12


# ----- what is refused ---------------------------------------------------------------
class Bomb:
    """Unpickling this would be seen."""

    went_off = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Bomb, "went_off", True))


def raw_record(data: bytes, stype: str = "numpy.ndarray", dtype: str = "float32", shape: tuple[int, ...] = (1,)) -> ArrayRecord:
    return ArrayRecord({"w": FlowerArray(dtype=dtype, shape=shape, stype=stype, data=data)})


def npy(value: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (raw_record(npy(np.zeros(1))), "w: dtype float64 is not allowed"),
        (raw_record(npy(np.zeros(1, np.float16))), "dtype float16 is not allowed"),
        (raw_record(npy(np.zeros(1, np.complex64))), "dtype complex64 is not allowed"),
        (raw_record(npy(np.zeros(1, ">f4"))), "not allowed"),
        (raw_record(npy(np.array(["a"]))), "dtype <U1 is not allowed"),
        (raw_record(npy(np.array([Bomb()], dtype=object))), "not a plain array"),
        (raw_record(pickle.dumps(Bomb())), "not a plain array"),
        (raw_record(b"torn"), "not a plain array"),
        (raw_record(npy(np.zeros(9, np.float32))[:-4]), "not a plain array"),
        (raw_record(npy(np.zeros(1, np.float32)), stype="torch.tensor"), "not a plain array"),
    ],
)
def test_other_arrays_are_refused_and_nothing_is_unpickled(record: ArrayRecord, said: str) -> None:
    with pytest.raises(UploadError) as caught:
        codec.from_record(record)
    assert said in str(caught.value)
    assert not Bomb.went_off


def test_the_numbers_count_and_not_what_the_envelope_says() -> None:
    record = raw_record(npy(np.zeros((2, 2), np.float32)), dtype="int32", shape=(1,))
    assert codec.from_record(record)["w"].shape == (2, 2)
    assert codec.from_record(record)["w"].dtype == np.float32


@pytest.mark.parametrize("rows", [0, 1, 200, 70_000])
def test_the_size_of_a_message_is_that_of_its_bytes(rows: int) -> None:
    """Sizes added record by record equal Flower's own serialization, also the second time and for keys of another length."""
    for key in ("shared", "own.7", "own.12345"):
        for dtype in (np.float32, np.int64):
            arrays = {"weights/a": np.ones((rows, 3), dtype), "weights/bias": np.zeros(rows, dtype)}
            content = RecordDict(
                {
                    "config": codec.config_record({"round": 3, "clients": [1, 2, 300], "run": "x"}),
                    key: codec.to_record(arrays),
                    "metrics.1": codec.metric_record({"num-examples": 50, "seconds": 0.5}),
                }
            )
            whole = len(recorddict_to_proto(content).SerializeToString())
            assert codec.message_bytes(content) == codec.message_bytes(content) == whole
    assert codec.message_bytes(RecordDict()) == 0


edges = [0, -1, 63, 64, -64, -65, 2**63, 2**64 - 1]
number = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(), st.sampled_from(edges))
lists = st.lists(st.text(), max_size=3)
setting_value = st.one_of(number, st.booleans(), st.text(max_size=200), st.binary(max_size=200), lists)


@given(st.dictionaries(st.text(max_size=4), number), st.dictionaries(st.text(max_size=4), setting_value))
def test_the_size_of_numbers_and_settings_is_that_of_their_serialized_form(
    metrics: dict[str, Any], settings: dict[str, Any]
) -> None:
    # forms are kept from example to example: two records of one form but of other lengths would show here
    content = RecordDict({"metrics.7": codec.metric_record(metrics), "state.7": codec.config_record(settings)})
    assert codec.message_bytes(content) == len(serialized(content))
