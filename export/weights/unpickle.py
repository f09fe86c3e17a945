"""Convert a pickled checkpoint to safetensors: the program of a process of its own.

Torch reads the file with `weights_only`, which runs no code of the pickle and knows nothing but
tensors and plain containers. In case that this has a gap, `confine` limits the process, too.

Run as `python -m covis.export.weights.unpickle SOURCE HANDLE [KEY]`: the result is written to the
open file HANDLE, and one JSON object, a `Report`, to standard output.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import sys
import zipfile
from pathlib import Path
from typing import Any, Final, TypedDict

import torch
from torch import Tensor

from covis.engines.errors import (
    CovisError,
    ExitCode,
    environment_error,
    first_line,
    printable,
    user_error,
)
from covis.engines.limits import GROWTH, PICKLE, PICKLED_FILES
from covis.export.weights.confine import available_memory, confine
from covis.export.weights.entries import encode_table
from covis.export.weights.keys import some
from covis.export.weights.page_cache import release_pages
from covis.export.weights.saved import ALONE, named_tensors, storage_table, unwrap

ZIP: Final = b"PK\x03\x04"  # start of the format of `torch.save` since torch 1.6
_PIECE = 16 << 20


class Report(TypedDict, total=False):
    """Result of the process: numbers of a conversion, or the fields of an error."""

    tensors: int
    size: int
    left_out: list[str]
    error: str
    hint: str
    code: int


def main(source: Path, handle: int, key: str | None) -> Report:
    """Convert `source` into the open file `handle`; see `convert` for the errors reported."""
    try:
        return convert(source, handle, key)
    except CovisError as error:
        return {"error": error.what, "hint": error.hint, "code": int(error.code)}
    except MemoryError:
        return {
            "error": "needs more memory than a checkpoint of its size may take",
            "hint": ALONE,
            "code": int(ExitCode.USER),
        }


def convert(source: Path, handle: int, key: str | None) -> Report:
    """Read the tensors of a pickled checkpoint, and stream them into an open file.

    Raises:
        CovisError: a file that `weights_only` refuses, or that contains no tensors by name; a
            tensor that safetensors cannot store; limits that are exceeded; a full disk.
    """
    before = source.stat()
    with source.open("rb") as file:
        zipped = file.read(len(ZIP)) == ZIP
    if zipped:
        check_archive(source)
    elif before.st_size > (free := available_memory()):
        raise environment_error(
            f"is read into memory as a whole: {before.st_size / 1e9:.1f} GB, and {free / 1e9:.1f} "
            "GB are available",
            hint="save it anew with torch 1.6 or later, which needs no memory here",
        )
    state, left_out = unwrap(_load(source, mmap=zipped), key)
    tensors, others = named_tensors(state)
    table = storage_table(tensors, most=GROWTH.most * before.st_size + _PIECE)
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if _identity(source.stat()) != _identity(before):
        raise user_error("changed while it was read", hint="try again")
    start = encode_table(
        table,
        {
            "format": "pt",
            "source": printable(source.name),
            "source_sha256": digest,
            "torch": str(torch.__version__),
        },
    )
    _write(handle, start, [tensors[name] for name in table])
    size = len(start) + sum(length for *_, length in table.values())
    return {"tensors": len(table), "size": size, "left_out": left_out + others}


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def check_archive(source: Path) -> None:
    """Refuse an archive that unpacks to more than its own size, or whose pickle is too large."""
    try:
        with zipfile.ZipFile(source) as archive:
            files = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise user_error(
            f"is cut short, or no checkpoint ({first_line(error)})", hint="copy it again"
        ) from error
    pickles = [file.file_size for file in files if file.filename.endswith("data.pkl")]
    if (
        len(files) > PICKLED_FILES.most
        or sum(file.file_size for file in files) > source.stat().st_size
        or max(pickles, default=0) > PICKLE.most
    ):
        raise user_error(
            f"is compressed, or has more than {PICKLED_FILES} or a pickle of more than {PICKLE}",
            hint=ALONE,
        )


def _load(source: Path, *, mmap: bool) -> Any:
    try:
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        names = list(dict.fromkeys(re.findall(r"GLOBAL ([\w.]+)", str(error))))
        reason = f"it asks for {some(names)}" if names else first_line(error, 200)
        raise user_error(
            f"was refused, because it contains more than tensors ({reason}); nothing was run",
            hint=ALONE,
        ) from error
    except Exception as error:  # a damaged or malicious file can end in any of them
        if "memory" in str(error):
            raise MemoryError from error
        raise user_error(
            f"is no checkpoint of tensors that torch reads ({first_line(error, 200)})",
            hint=ALONE,
        ) from error


def _write(handle: int, start: bytes, tensors: list[Tensor]) -> None:
    """Write the table and the bytes of the tensors, in order, without keeping them in memory."""
    try:
        with os.fdopen(handle, "wb", closefd=False) as stream:
            stream.write(start)
            for tensor in tensors:
                data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
                for first in range(0, data.nbytes, _PIECE):
                    stream.write(data[first : first + _PIECE])
                release_pages([tensor])
    except OSError as error:
        raise environment_error(
            f"the new file cannot be written ({error.strerror or error})",
            hint="check free space and rights",
        ) from error


if __name__ == "__main__":
    _source, _handle, *_key = sys.argv[1:]
    _report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints does not reach the report
    torch.set_num_threads(1)
    confine(Path(_source).stat().st_size)
    json.dump(main(Path(_source), int(_handle), _key[0] if _key else None), _report)
    _report.close()
