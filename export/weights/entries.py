"""The table at the start of a safetensors file: type, shape and position of every tensor."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

import onnx_ir as ir

from covis.engines.dtypes import BY_SAFETENSORS
from covis.engines.errors import CovisError, first_line, printable, user_error
from covis.engines.limits import CHECKPOINT_TABLE, RANK

_LENGTH_BYTES = 8


@dataclass(frozen=True)
class Entry:
    """Position of one tensor in a safetensors file; offset and length in bytes from its start."""

    dtype: ir.DataType
    shape: tuple[int, ...]
    offset: int
    length: int

    def rows(self, first: int, count: int) -> Entry:
        """Return the entry of some rows (first dimension), which are contiguous."""
        row = self.length // self.shape[0]
        return Entry(self.dtype, (count, *self.shape[1:]), self.offset + first * row, count * row)


def read_entries(path: Path) -> dict[str, Entry]:
    """Read the table of a safetensors file, in the order of the data.

    The file begins with the length of the table (8 bytes, little-endian), the table as JSON, and
    then contains the raw tensors without gaps. Everything that the table says is checked.

    Raises:
        CovisError: no safetensors file, a truncated one, a table above the limits,
            or a type that a graph cannot refer to.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
            if size < _LENGTH_BYTES or not 2 <= length <= CHECKPOINT_TABLE.most:
                raise _unreadable(path, f"a table of {length:,} bytes of {size:,}")
            text = stream.read(length)
    except OSError as error:
        raise user_error(
            f"cannot be read ({error.strerror})", where=path, hint="check the path"
        ) from error
    if size < _LENGTH_BYTES + length:
        raise _cut_short(path, size, _LENGTH_BYTES + length)
    table = _parse(path, text)
    entries = {
        name: _entry(path, name, facts, _LENGTH_BYTES + length) for name, facts in table.items()
    }
    return _without_gaps(path, entries, size, _LENGTH_BYTES + length)


def encode_table(
    tensors: Mapping[str, tuple[str, Sequence[int], int]],
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Return the start of a safetensors file whose tensors follow in the order of `tensors`.

    Args:
        tensors: Type by its name in the format, shape and length in bytes, by name.
        metadata: Text to store by name.
    """
    table: dict[str, object] = {} if not metadata else {"__metadata__": dict(metadata)}
    offset = 0
    for name, (kind, shape, length) in tensors.items():
        offsets = [offset, offset + length]
        table[name] = {"dtype": kind, "shape": list(shape), "data_offsets": offsets}
        offset += length
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data are aligned
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        table = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, first_line(error)) from error
    if not isinstance(table, dict):
        raise _unreadable(path, "its table is no JSON object")
    table.pop("__metadata__", None)
    return table


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = sorted(name for name, _ in pairs)
        twice = next(a for a, b in itertools.pairwise(names) if a == b)
        raise ValueError(f"{printable(twice)} is in its table twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of a table")


def _entry(path: Path, name: str, facts: Any, base: int) -> Entry:
    """Return the entry of one tensor; `base` is the position of the first byte of data."""
    fields = facts if isinstance(facts, dict) else {}
    shape, offsets, kind = (fields.get(key) for key in ("shape", "data_offsets", "dtype"))
    if not (_are_sizes(shape) and _are_sizes(offsets) and isinstance(kind, str)):
        raise _unreadable(path, f"tensor {printable(name)[:200]} is not described as one")
    if kind not in BY_SAFETENSORS:
        raise user_error(
            f"tensor {printable(name)[:200]} has type {printable(kind)[:20]}",
            where=path,
            hint="give F32, F16 or BF16",
        )
    element = BY_SAFETENSORS[kind]
    first, last = offsets if len(offsets) == 2 else (0, -1)
    if last - first != math.prod(shape) * element.bits // 8:
        raise _unreadable(path, f"tensor {printable(name)[:200]} has not the length of its shape")
    return Entry(ir.DataType(element.onnx), tuple(shape), base + first, last - first)


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    """Return True for sizes: integers from 0 to 2^63 - 1, as many as a tensor may have."""
    return (
        isinstance(value, list)
        and len(value) <= RANK.most
        and all(type(n) is int and 0 <= n < 1 << 63 for n in value)
    )


def _without_gaps(path: Path, entries: dict[str, Entry], size: int, base: int) -> dict[str, Entry]:
    """Return the entries in the order of their data, which must fill the file."""
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].offset, item[1].length)))
    end = base
    for name, entry in ordered.items():
        if entry.offset != end:
            raise _unreadable(path, f"a gap or an overlap before tensor {printable(name)[:200]}")
        end += entry.length
    if end > size:
        raise _cut_short(path, size, end)
    if end < size:
        raise _unreadable(path, f"{size - end:,} bytes after its last tensor")
    return ordered


def _cut_short(path: Path, size: int, expected: int) -> CovisError:
    return user_error(
        f"the file is cut short: {size} bytes of at least {expected}",
        where=path,
        hint="download it again",
    )


def _unreadable(path: Path, reason: str) -> CovisError:
    return user_error(
        f"not a readable safetensors file ({reason})",
        where=path,
        hint="pass the .safetensors file of the model",
    )
