"""Checkpoints in several safetensors files: the index that names them, and their union."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, Final

from covis.engines.dtypes import BY_ONNX
from covis.engines.errors import CovisError, printable, user_error
from covis.engines.limits import FILE_NAME, SHARDS
from covis.engines.system.json_file import read_json
from covis.export.weights.entries import Entry, encode_table, read_entries
from covis.export.weights.keys import some

INDEX: Final = "model.safetensors.index.json"
_PIECE = 16 << 20
_SUFFIX = ".safetensors.index.json"
_HINT = "download the folder of the model again"


def is_index(path: Path) -> bool:
    """Return True if the name is that of the index of a sharded checkpoint."""
    return path.name.endswith(_SUFFIX)


def weights_files(path: Path) -> tuple[Path, ...]:
    """Return the files of a checkpoint: the file itself, or the shards that an index names.

    Raises:
        CovisError: an index that is none, or names a shard outside its folder or one that is
            missing.
    """
    return _shard_files(path, _weight_map(path)) if is_index(path) else (path,)


def _shard_files(index: Path, weight_map: dict[str, str]) -> tuple[Path, ...]:
    files = tuple(index.parent / name for name in _names(weight_map))
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise user_error(
            f"names {len(missing)} of {len(files)} files that are not there ({some(missing)})",
            where=index,
            hint=_HINT,
        )
    return files


def shard_names(index: Path) -> list[str]:
    """Return the names of the files that an index names, each once."""
    return _names(_weight_map(index))


def _names(weight_map: dict[str, str]) -> list[str]:
    return sorted(set(weight_map.values()))


def checkpoint_entries(path: Path) -> dict[Path, dict[str, Entry]]:
    """Return the tables of a checkpoint by file; see `weights_files`.

    Raises:
        CovisError: a file that is no safetensors file; a tensor that is in two shards, or not in
            the shard that the index says.
    """
    if not is_index(path):
        return {path: read_entries(path)}
    weight_map = _weight_map(path)
    tables = {file: read_entries(file) for file in _shard_files(path, weight_map)}
    counts = Counter(name for table in tables.values() for name in table)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise _contradiction(path, f"{len(twice)} tensors are in two shards ({some(twice)})")
    names = {file.name: table for file, table in tables.items()}
    absent = [key for key, file in weight_map.items() if key not in names[file]]
    if absent:
        raise _contradiction(path, f"{len(absent)} tensors are not in their shard ({some(absent)})")
    unlisted = [key for key in counts if key not in weight_map]
    if unlisted:
        raise _contradiction(path, f"{len(unlisted)} tensors are in no index ({some(unlisted)})")
    return tables


def merge_shards(index: Path, target: Path) -> None:
    """Write one safetensors file with the tensors of all shards, a piece in memory at a time.

    Wide types come first, as in every safetensors file, so that each tensor is aligned.
    """
    tables = checkpoint_entries(index)
    order = sorted(
        ((file, name, entry) for file, table in tables.items() for name, entry in table.items()),
        key=lambda item: -_itemsize(item[2]),
    )
    table = {
        name: (BY_ONNX[entry.dtype].safetensors, entry.shape, entry.length)
        for _, name, entry in order
    }
    with contextlib.ExitStack() as stack, target.open("wb") as writer:
        writer.write(encode_table(table))
        readers = {file: stack.enter_context(file.open("rb")) for file in tables}
        for file, _, entry in order:
            readers[file].seek(entry.offset)
            _copy(readers[file], writer, entry.length)


def _itemsize(entry: Entry) -> int:
    return BY_ONNX[entry.dtype].bits


def _copy(reader: BinaryIO, writer: BinaryIO, length: int) -> None:
    while length > 0:
        piece = reader.read(min(length, _PIECE))
        if not piece:
            raise user_error("became shorter while it was read", where=reader.name, hint=_HINT)
        writer.write(piece)
        length -= len(piece)


def _weight_map(index: Path) -> dict[str, str]:
    record = read_json(index, _HINT)
    weight_map: Any = record.get("weight_map") if isinstance(record, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise user_error("has no weight_map, so it is no index", where=index, hint=_HINT)
    for key, file in weight_map.items():
        if not _plain_name(file):
            raise user_error(
                f"names {printable(str(file))[:200]!r} for {printable(key)[:200]}, which is no "
                "safetensors file in its folder",
                where=index,
                hint=_HINT,
            )
    count = len(set(weight_map.values()))
    if count > SHARDS.most:
        raise user_error(
            f"names {count:,} files, more than {SHARDS.most:,}", where=index, hint=_HINT
        )
    return weight_map


def _plain_name(file: object) -> bool:
    """Return True for the name of a safetensors file, without any folder."""
    return (
        isinstance(file, str)
        and file.endswith(".safetensors")
        and not file.startswith(".")
        and Path(file).name == file
        and file.isprintable()
        and "\\" not in file
        and len(file.encode()) <= FILE_NAME.most
    )


def _contradiction(index: Path, what: str) -> CovisError:
    return user_error(what, where=index, hint=_HINT)
