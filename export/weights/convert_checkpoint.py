"""Convert a user's own pickled checkpoint to safetensors, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from covis.engines.errors import CovisError, ExitCode, environment_error, printable, user_error
from covis.engines.limits import CONVERSION
from covis.engines.system.atomic import atomic_file, check_file_target

_COMMAND: Final = (sys.executable, "-I", "-B", "-m", "covis.export.weights.unpickle")
_SLOWEST_DISK: Final = 5e6  # bytes a second


@dataclass(frozen=True)
class Conversion:
    """A checkpoint that was converted.

    Attributes:
        tensors: Number of tensors in the new file.
        size: Size of the new file in bytes.
        left_out: Everything else that the checkpoint contains, by name and type.
    """

    tensors: int
    size: int
    left_out: tuple[str, ...]


def convert_checkpoint(
    source: Path, out: Path, key: str | None = None, *, force: bool = False
) -> Conversion:
    """Write the tensors of a pickled checkpoint (`.pt`, `.pth`, `.bin`, `.ckpt`) as safetensors.

    Types stay as they are. Tensors that share memory are written one by one. The new file's
    metadata contain the name and the SHA-256 of the checkpoint and the version of torch.

    Args:
        source: Checkpoint written by `torch.save`.
        out: File to write, `.safetensors`.
        key: Name of the dictionary of weights in the checkpoint; None finds the usual names.
        force: Replace an existing file.

    Raises:
        CovisError: a checkpoint that is refused or beyond the limits; see `unpickle`.
    """
    _check(source, out, force)
    with atomic_file(out) as stream:
        return _run(source, stream.fileno(), key)


def _check(source: Path, out: Path, force: bool) -> None:
    if not source.is_file():
        what = "is no file" if source.exists() else "no such file"
        raise user_error(what, where=source, hint="name a checkpoint written by torch.save")
    with source.open("rb") as file:
        start = file.read(9)
    if start[8:9] == b"{":
        raise user_error(
            "is a safetensors file already", where=source, hint="rename it to *.safetensors"
        )
    if out.suffix != ".safetensors":
        raise user_error("is no name of a safetensors file", where=out, hint="end it so")
    if out.exists() and not force:
        raise user_error("already exists", where=out, hint="choose another name or pass --force")
    check_file_target(out)


def _run(source: Path, handle: int, key: str | None) -> Conversion:
    command = [*_COMMAND, str(source.absolute()), str(handle)]
    seconds = CONVERSION.most + source.stat().st_size / _SLOWEST_DISK
    try:
        done = subprocess.run(
            command + ([] if key is None else [key]),
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            pass_fds=[handle],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )
    except subprocess.TimeoutExpired as error:
        raise _too_slow(source) from error
    try:
        report = json.loads(done.stdout)
    except ValueError:
        raise _died(source, done) from None
    if "error" in report:
        raise CovisError(
            ExitCode(report["code"]), report["error"], where=source, hint=report["hint"]
        )
    return Conversion(report["tensors"], report["size"], tuple(report["left_out"]))


def _died(source: Path, done: subprocess.CompletedProcess[bytes]) -> CovisError:
    """Return the error of a process that left no report."""
    if done.returncode == -signal.SIGXCPU:
        return _too_slow(source)
    lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
    how = f"by {signal.Signals(-done.returncode).name}" if done.returncode < 0 else "early"
    return environment_error(
        f"the process that converts it ended {how} ({printable(lines[-1])[:200]})",
        where=source,
        hint="check free memory, and that the file is whole",
    )


def _too_slow(source: Path) -> CovisError:
    return user_error(
        "takes more time than a checkpoint of its size may", where=source, hint="copy it again"
    )
