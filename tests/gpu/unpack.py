"""Join carried pieces and unpack them, checked on the way: python3 unpack.py PIECES TARGET

Stands alone: `prepare.py pieces` lays a copy beside the pieces. Needs the package zstandard, or the
program zstd, where the pieces are of a compressed stream. Exit code 2 and one line where a piece is
missing or damaged; nothing is unpacked then.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

MANIFEST = "pieces.json"
WINDOW = 1 << 30


class Pieces:
    """The pieces one after the other, as one file to read."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._left = list(paths)
        self._now: IO[bytes] | None = None

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; empty behind the last piece."""
        while True:
            data = self._now.read(size) if self._now else b""
            if data or not self._left:
                return data
            if self._now:
                self._now.close()
            self._now = self._left.pop(0).open("rb")

    def close(self) -> None:
        """Close the piece that is open."""
        if self._now:
            self._now.close()


def digest(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check(folder: Path, listed: dict[str, dict[str, Any]]) -> str:
    """The first thing that is wrong with files of these sizes and digests, in words; or ""."""
    for name, facts in listed.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != facts["size"]:
            return f"{name} has {path.stat().st_size} bytes, not {facts['size']}"
        if digest(path) != facts["sha256"]:
            return f"{name} is damaged (sha256 differs)"
    return ""


@contextlib.contextmanager
def stream_of(pieces: Any, compression: str) -> Iterator[Any]:
    """The tar stream inside the pieces."""
    if compression == "none":
        yield pieces
        return
    try:
        import zstandard
    except ImportError:
        with through_program(pieces) as stream:
            yield stream
    else:
        yield zstandard.ZstdDecompressor(max_window_size=WINDOW).stream_reader(pieces)


@contextlib.contextmanager
def through_program(pieces: Pieces) -> Iterator[Any]:
    """The stream that the program zstd makes of the pieces."""
    if shutil.which("zstd") is None:
        raise SystemExit("neither the package zstandard nor the program zstd is here")
    command = ["zstd", "-d", "-c", "--long=30"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        into, out = program.stdin, program.stdout
        assert into is not None and out is not None

        def feed() -> None:
            with contextlib.suppress(BrokenPipeError), into:
                shutil.copyfileobj(pieces, into, 1 << 20)

        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()
        yield out
        out.close()
        feeder.join()


def main() -> int:
    """Check the pieces, unpack them, and check what came out."""
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        manifest = json.loads((source / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        print(f"{source / MANIFEST}: cannot be read ({error})", file=sys.stderr)
        return 2
    if wrong := check(source, manifest["pieces"]):
        print(f"{source}: {wrong}", file=sys.stderr)
        return 2
    pieces = Pieces(source / name for name in manifest["pieces"])
    with (
        stream_of(pieces, manifest["compression"]) as stream,
        tarfile.open(fileobj=stream, mode="r|", bufsize=1 << 20) as tar,
    ):
        tar.extractall(target, filter="data")
    pieces.close()
    if wrong := check(target, manifest["files"]):
        print(f"{target}: {wrong}", file=sys.stderr)
        return 2
    print(f"{target}: {len(manifest['files'])} files, all as they were packed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
