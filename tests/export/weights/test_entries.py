"""The table of a safetensors file: read exactly, and refused quickly where it is no such table."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from covis.engines.errors import CovisError, ExitCode
from covis.engines.limits import CHECKPOINT_TABLE
from covis.export.weights.entries import encode_table, read_entries
from covis.export.weights.load import read_weights


def put(folder: Path, table: Any, data: bytes = b"") -> Path:
    """Write a file with this table, given as an object or as its text."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def tensor(shape: list[Any], first: Any, last: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


def test_entries_are_the_bytes_of_the_tensors(tmp_path: Path) -> None:
    weights = {"b": torch.randn(3, 5), "a": torch.randn(7).half(), "none": torch.zeros(0, 4)}
    path = tmp_path / "model.safetensors"
    save_file(weights, path, metadata={"format": "pt"})
    content = path.read_bytes()
    entries = read_entries(path)
    assert entries.keys() == weights.keys()
    for name, value in weights.items():
        entry = entries[name]
        assert entry.shape == tuple(value.shape)
        assert content[entry.offset :][: entry.length] == value.numpy().tobytes()


def test_an_encoded_table_is_what_the_library_reads(tmp_path: Path) -> None:
    start = encode_table({"a": ("F32", (2,), 8), "b": ("F16", (1, 1), 2)}, {"source": "é"})
    path = tmp_path / "model.safetensors"
    path.write_bytes(start + struct.pack("<2f", 1, 2) + b"\x00\x3c")
    assert len(start) % 8 == 0
    loaded = load_file(path)
    assert loaded["a"].tolist() == [1, 2] and loaded["b"].tolist() == [[1]]


ONE = {"a": tensor([2], 0, 8)}
TABLES: dict[str, tuple[Any, str]] = {
    "deep": (b'{"a":' + b"[" * 100_000, "not a readable safetensors file"),
    "deep and closed": (
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "not a readable safetensors file",
    ),
    "twice": (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        "a is in its table twice",
    ),
    "nan": (b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', "NaN is no number"),
    "1e300": ({"a": tensor([1e300], 0, 8)}, "tensor a is not described as one"),
    "10^4299": (b'{"a":{"dtype":"F32","shape":[1' + b"0" * 4299 + b'],"data_offsets":[0,8]}}',
                "tensor a is not described as one"),
    "10^5000": (b'{"a":{"dtype":"F32","shape":[1' + b"0" * 5000 + b'],"data_offsets":[0,8]}}',
                "not a readable safetensors file"),
    "negative": ({"a": tensor([-2], 0, 8)}, "tensor a is not described as one"),
    "true": ({"a": tensor([True, 2], 0, 8)}, "tensor a is not described as one"),
    "rank": ({"a": tensor([1] * 100_000, 0, 4)}, "tensor a is not described as one"),
    "text": ({"a": "F32"}, "tensor a is not described as one"),
    "one offset": ({"a": {**tensor([2], 0, 8), "data_offsets": [8]}},
                   "tensor a has not the length of its shape"),
    "dtype unknown": ({"a": tensor([2], 0, 8, "F31")}, "tensor a has type F31; give F32"),
    "dtype of no graph": ({"a": tensor([1], 0, 8, "I64")}, "tensor a has type I64; give F32"),
    "dtype none": ({"a": tensor([2], 0, 8, None)}, "tensor a is not described as one"),
    "length": ({"a": tensor([3], 0, 8)}, "tensor a has not the length of its shape"),
    "overflow": ({"a": tensor([1 << 62, 4], 0, 8)}, "tensor a has not the length of its shape"),
    "backwards": ({"a": tensor([2], 8, 0)}, "tensor a has not the length of its shape"),
    "overlap": (ONE | {"b": tensor([1], 4, 8)}, "a gap or an overlap before tensor b"),
    "gap": ({"a": tensor([1], 4, 8)}, "a gap or an overlap before tensor a"),
    "cut short": (ONE | {"b": tensor([2], 8, 16)}, "the file is cut short"),
    "list": ([1, 2], "its table is no JSON object"),
    "not UTF-8": (b'{"\xff": 1}', "not a readable safetensors file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_wrong_tables_are_refused_at_once(tmp_path: Path, kind: str) -> None:
    table, message = TABLES[kind]
    path = put(tmp_path, table, bytes(8))
    start = time.process_time()
    for read in (read_entries, read_weights):
        with pytest.raises(CovisError) as caught:
            read(path)
        text = str(caught.value)
        assert message in text and text.startswith(f"{path}: ")
        assert "\n" not in text and len(text) < 600 and caught.value.code == ExitCode.USER
    assert time.process_time() - start < 20  # else minutes, or for ever


def test_bytes_after_the_last_tensor_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CovisError, match="4 bytes after its last tensor"):
        read_entries(put(tmp_path, ONE, bytes(12)))


def test_a_table_above_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", CHECKPOINT_TABLE.most + 1))
        file.truncate(CHECKPOINT_TABLE.most + 100)  # a hole: it takes no space
    with pytest.raises(CovisError, match="a table of 16,777,217 bytes"):
        read_entries(path)
