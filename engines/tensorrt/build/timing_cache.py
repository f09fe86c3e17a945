"""Cache of TensorRT's measured kernel times, shared between builds and verified by its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from covis.engines.system.atomic import atomic_file
from covis.engines.tensorrt.plans.cache import OnProgress, file_lock, locked
from covis.engines.errors import CovisError, environment_error
from covis.engines.limits import TIMING_CACHE
from covis.engines.system.regular import read_regular

Merge = Callable[[bytes, bytes], bytes]
"""Merges the contents of the file with the times of a build: (known, measured) -> both."""


class TimingCache:
    """A file in TensorRT's own format, which trtexec reads too, and its digest beside it.

    A file whose digest differs is not read, because TensorRT is not documented to survive a damaged
    one. A file without a digest is read: it comes from another program, such as trtexec.
    """

    def __init__(self, path: Path, on_progress: OnProgress = lambda text: None) -> None:
        self.path = path
        self.on_progress = on_progress

    def read(self) -> bytes:
        """Return the file's bytes; none if it is missing, or damaged, which is reported."""
        try:
            data = _contents(self.path)
            digest = _contents(self._digest).decode("ascii").strip() or None
        except (CovisError, UnicodeDecodeError) as error:
            self.on_progress(f"{self.path}: cannot be read ({error}); kernels are measured anew")
            return b""
        if data and digest is not None and hashlib.sha256(data).hexdigest() != digest:
            self.on_progress(f"{self.path}: is damaged (sha256 differs); kernels are measured anew")
            return b""
        return data

    def add(self, measured: bytes, merge: Merge) -> None:
        """Merge a build's times into the file, which other builds may have changed meanwhile.

        Raises:
            CovisError: the file cannot be written.
        """
        if not measured:
            return
        with locked(file_lock(self.path.with_name(f".{self.path.name}.lock"))):
            known = self.read()
            data = merge(known, measured) if known else measured
            if data == known:
                return
            # The digest is removed first, so that an interruption leaves no file with a wrong digest.
            self._remove_digest()
            with atomic_file(self.path) as stream:
                stream.write(data)
            with atomic_file(self._digest) as stream:
                stream.write(hashlib.sha256(data).hexdigest().encode() + b"\n")

    @property
    def _digest(self) -> Path:
        return self.path.with_name(f"{self.path.name}.sha256")

    def _remove_digest(self) -> None:
        try:
            self._digest.unlink(missing_ok=True)
        except OSError as error:
            raise environment_error(
                f"cannot be written ({error.strerror or error})",
                where=self._digest,
                hint="check rights, or choose another file with --timingCacheFile",
            ) from error


def _contents(path: Path) -> bytes:
    """Return the bytes of a file; none if it does not exist."""
    return read_regular(path, TIMING_CACHE, hint="remove it", follow=True) if path.exists() else b""
