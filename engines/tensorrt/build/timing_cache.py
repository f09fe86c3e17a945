"""TensorRT's measured kernel times, shared between builds: merged under a lock, checked first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from covis.engines.system.atomic import atomic_file
from covis.engines.tensorrt.plans.cache import Tell, file_lock, held
from covis.engines.errors import environment_error

Merge = Callable[[bytes, bytes], bytes]
"""(what the file holds, what a build measured) -> both."""


class TimingCache:
    """A file in TensorRT's own format, which trtexec reads too, and its digest beside it.

    TensorRT is not said to survive a damaged file, so a file whose digest differs is not read. One
    without a digest is somebody else's, from trtexec say, and is.
    """

    def __init__(self, path: Path, tell: Tell = lambda text: None) -> None:
        self.path = path
        self.tell = tell

    def read(self) -> bytes:
        """The file's bytes; none where it is missing or damaged (which is told)."""
        try:
            data = self.path.read_bytes() if self.path.is_file() else b""
            digest = self._digest.read_text("ascii").strip() if self._digest.is_file() else None
        except (OSError, UnicodeDecodeError) as error:
            self.tell(f"{self.path}: cannot be read ({error}); kernels are measured anew")
            return b""
        if data and digest is not None and hashlib.sha256(data).hexdigest() != digest:
            self.tell(f"{self.path}: is damaged (sha256 differs); kernels are measured anew")
            return b""
        return data

    def add(self, measured: bytes, merge: Merge) -> None:
        """Merge a build's times into the file; other builds may have done so meanwhile.

        Raises:
            CovisError: the file cannot be written.
        """
        if not measured:
            return
        with held(file_lock(self.path.with_name(f".{self.path.name}.lock"))):
            known = self.read()
            data = merge(known, measured) if known else measured
            if data == known:
                return
            # The digest goes first: a file between the two is one that nobody vouches for.
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
