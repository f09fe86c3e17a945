"""Files whose bytes were verified, and that are used as they were verified.

Between the check of a file and its use, another program can write to it, or put another file in its
place. A `VerifiedFile` therefore stays open from its check on:

- what is read into memory is read from the open file, and its digest is compared again;
- a memory map is one of the open file;
- what another library opens by its name (the weights, in ONNX Runtime) is compared with the open
  file before and after: the name must still stand for the same file on the same device, with the
  same size and times. If only the times differ before, the digest decides.

Not covered: a program of the same user, or of an administrator, that changes weights while a
computation has them mapped, which the check that follows it reports; or that exchanges a whole
folder above, and puts it back, while a library opens a file by its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from covis.engines.errors import CovisError, user_error
from covis.engines.limits import Limit
from covis.engines.system.regular import open_regular, pieces, too_large, unreadable

if TYPE_CHECKING:
    import onnx

_SETTLED: Final = 20_000_000  # ns; kernels before 6.13 count the times of files in ticks of 1-10 ms
_EXPORT: Final = "export the bundle again or copy it anew"
_AGAIN: Final = "start again, and change no file while it is in use"
_CUT: Final = 1 << 62

_Facts = tuple[int, int, int]


class VerifiedFile:
    """An open file and the digest of its bytes.

    Attributes:
        path: Path of the file, as the user named it.
        folder: Real path of its folder.
        size: Size in bytes.
        sha256: Digest of the bytes, in hexadecimal.
    """

    def __init__(
        self,
        path: Path,
        *,
        size: int | None = None,
        sha256: str | None = None,
        most: Limit | None = None,
        hint: str = _EXPORT,
        link_hint: str = "",
        follow: bool = False,
    ) -> None:
        """Open a file and verify it.

        Args:
            path: A regular file.
            size: Size that it must have; None takes its own.
            sha256: Digest that its bytes must have; None takes their own.
            most: Largest size.
            hint: Hint of the errors of this call.
            link_hint: Hint of the error for a symbolic link, if it differs from `hint`.
            follow: Accept a symbolic link to the file.

        Raises:
            CovisError: no such file, or it is not what it must be (exit code 2); it cannot be read
                (3).
        """
        self.path = path
        # Links are resolved now: `latest` may point elsewhere when a stage is loaded.
        self.folder = Path(os.path.realpath(path.parent))
        self._place = Path(os.path.realpath(path)) if follow else self.folder / path.name
        self._descriptor = open_regular(path, hint=hint, follow=follow, link_hint=link_hint)
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size
        if most is not None and self.size > most.most:
            raise too_large(path, most, hint)
        if size is not None and self.size != size:
            raise user_error(
                f"has {self.size:,} bytes where the manifest says {size:,}", where=path, hint=hint
            )
        self._facts, self.sha256 = self._hashed()
        if sha256 is not None and self.sha256 != sha256:
            raise user_error("is not what was exported (sha256 differs)", where=path, hint=hint)

    def __reduce__(self) -> tuple[object, ...]:
        """Refuse copies, in this process or by pickle in another: the open file cannot go along."""
        raise user_error(
            "an opened bundle cannot be copied or sent to another process",
            where=self.path,
            hint="pass its path, and open it there",
        )

    @property
    def links(self) -> int:
        """Number of names (hard links) of the file."""
        return os.fstat(self._descriptor).st_nlink

    def read(self) -> bytes:
        """Return the verified bytes.

        Raises:
            CovisError: the file was changed or replaced since (exit code 2).
        """
        self._check_name()
        with self._reading():
            data = b"".join(pieces(self._descriptor, self.size))
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise self._changed()
        return data

    def map(self) -> mmap.mmap:
        """Map the verified bytes into memory, read-only.

        Raises:
            CovisError: the file was changed or replaced since (exit code 2).
        """
        self.check()
        if self.size == 0:
            raise user_error("is empty", where=self.path, hint=_EXPORT)
        with self._reading():
            return mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)

    @contextlib.contextmanager
    def by_name(self) -> Iterator[Path]:
        """Provide the file's real path to code that opens it by name; it is checked on both ends.

        Meanwhile not even its times may change: a renaming there and back leaves no other trace.

        Raises:
            CovisError: the file was changed or replaced (exit code 2).
        """
        self.check()
        before = self._facts
        try:
            yield self._place
        finally:
            self._check_name()
            with self._reading():
                if _facts(self._descriptor) != before:
                    raise self._changed()

    def check(self) -> None:
        """Check that the name still stands for the verified file, and that its bytes are the same.

        Raises:
            CovisError: the file was changed or replaced since (exit code 2).
        """
        self._check_name()
        self.check_bytes()

    def check_bytes(self) -> None:
        """Check that the open file still has the verified bytes, whatever its name stands for now.

        Raises:
            CovisError: the file was changed since (exit code 2).
        """
        with self._reading():
            if _facts(self._descriptor) == self._facts:
                return
        # `chmod` or a backup changes the times alone: then the digest is the same.
        facts, sha256 = self._hashed()
        if sha256 != self.sha256:
            raise self._changed()
        self._facts = facts

    def _check_name(self) -> None:
        try:
            there = self._place.lstat()
        except FileNotFoundError:
            raise user_error(
                "was removed while it was in use", where=self.path, hint=_AGAIN
            ) from None
        except OSError as error:
            raise unreadable(self.path, error, _AGAIN) from error
        here = os.fstat(self._descriptor)
        if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
            raise user_error(
                "was replaced by another file while it was in use", where=self.path, hint=_AGAIN
            )

    def _hashed(self) -> tuple[_Facts, str]:
        """Hash the file; return the facts that it had before and after, and its digest."""
        with self._reading():
            before = _facts(self._descriptor)
            age = time.time_ns() - before[2]
            if 0 <= age < _SETTLED:  # a later change could still get the same times
                time.sleep((_SETTLED - age) / 1e9)
            digest = hashlib.sha256()
            for piece in pieces(self._descriptor, _CUT):
                digest.update(piece)
            if _facts(self._descriptor) != before:
                raise self._changed()
        return before, digest.hexdigest()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise unreadable(self.path, error, _EXPORT) from error

    def _changed(self) -> CovisError:
        return user_error("was changed while it was in use", where=self.path, hint=_AGAIN)


@dataclass(frozen=True)
class VerifiedGraph:
    """A verified ONNX file, and the verified files that contain its external tensors.

    Attributes:
        file: The ONNX file.
        data: Files of the external tensors, by their location in the graph.
    """

    file: VerifiedFile
    data: Mapping[str, VerifiedFile] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Path of the ONNX file, for messages; its bytes come from `read`."""
        return self.file.path

    def read(self) -> bytes:
        """Return the verified bytes of the ONNX file, without its external tensors."""
        return self.file.read()

    def model(self) -> onnx.ModelProto:
        """Parse the verified bytes; external tensors stay in their files."""
        from covis.engines.graphs.read import parse_model

        return parse_model(self.read(), self.path)

    @contextlib.contextmanager
    def data_by_name(self) -> Iterator[Path]:
        """Provide the real folder of the external tensors' files to code that opens them by name.

        Raises:
            CovisError: one of these files was changed or replaced (exit code 2).
        """
        with contextlib.ExitStack() as stack:
            for file in self.data.values():
                stack.enter_context(file.by_name())
            yield self.file.folder

    def check_data(self) -> None:
        """Check that the external tensors' files, which may be mapped, have the verified bytes.

        Raises:
            CovisError: one of these files was changed since (exit code 2).
        """
        for file in self.data.values():
            file.check_bytes()


def verified_onnx(path: Path) -> VerifiedGraph:
    """Open a single ONNX file with its external tensors; what they contain now is what is used.

    Raises:
        CovisError: a file is missing, cannot be read, or is no ONNX model.
    """
    from covis.engines.graphs.read import external_data, parse_model
    from covis.engines.limits import ONNX_FILE

    hint = "check the path"
    file = VerifiedFile(path, most=ONNX_FILE, hint=hint, follow=True)
    model = parse_model(file.read(), path)
    locations = sorted({entry.location for entry in external_data(model)})
    data = {name: VerifiedFile(path.parent / name, hint=hint, follow=True) for name in locations}
    return VerifiedGraph(file, data)


def _facts(descriptor: int) -> _Facts:
    facts = os.fstat(descriptor)
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
