"""Files in pieces below a size, for a machine reached by calls that carry so much at most."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from covis.evaluation.bench.record import machine
from tests.gpu import unpack
from tests.gpu.sitting import write_json

Compression = Literal["none", "zstd"]


class Cutter:
    """Writes one stream into files `piece.000`, `piece.001` and so on of at most `size` bytes."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        self.paths: list[Path] = []
        self._now: IO[bytes] | None = None
        self._room = 0

    def write(self, data: bytes) -> int:
        """Append to the stream."""
        left = memoryview(data)
        while left:
            if self._room == 0:
                self.close()
                self.paths.append(self.folder / f"piece.{len(self.paths):03d}")
                self._now, self._room = self.paths[-1].open("wb"), self.size
            assert self._now is not None
            taken = left[: self._room]
            self._now.write(taken)
            self._room -= len(taken)
            left = left[len(taken) :]
        return len(data)

    def close(self) -> None:
        """End the piece that is being written."""
        if self._now is not None:
            self._now.close()


def pack(sources: Sequence[Path], out: Path, size: int, compression: Compression) -> dict[str, Any]:
    """Pack files and folders under their own names; returns the manifest.

    Writes the pieces, `pieces.json` with sizes and digests of pieces and files, and `unpack.py`,
    which joins and checks them anywhere, to `out`, which must not be there yet.

    Raises:
        ValueError: two sources have the same name, or one is neither file nor folder.
        FileExistsError: `out` is there.
    """
    names = [source.name for source in sources]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]}: is given twice")
    if missing := [source for source in sources if not source.exists()]:
        raise ValueError(f"{missing[0]}: no such file or folder")
    out.mkdir(parents=True)
    cutter = Cutter(out, size)
    files: dict[str, dict[str, Any]] = {}
    with _compressed(cutter, compression) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        for path, name in _files(sources):
            tar.add(path, name, recursive=False)
            files[name] = {"size": path.stat().st_size, "sha256": unpack.digest(path)}
    cutter.close()
    manifest = {
        "commit": machine()["commit"],
        "compression": compression,
        "pieces": {
            path.name: {"size": path.stat().st_size, "sha256": unpack.digest(path)}
            for path in cutter.paths
        },
        "files": files,
    }
    shutil.copy(unpack.__file__, out / "unpack.py")
    write_json(out / unpack.MANIFEST, manifest)
    return manifest


def _files(sources: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Every file with its name in the tar; links are followed."""
    for source in sources:
        if source.is_file():
            yield source.resolve(), source.name
        for path in sorted(source.rglob("*")) if source.is_dir() else ():
            if path.is_file():
                yield path.resolve(), str(Path(source.name) / path.relative_to(source))


@contextlib.contextmanager
def _compressed(cutter: Cutter, compression: Compression) -> Iterator[Any]:
    """A stream that ends up in the pieces; zstd by its program, which needs a GiB for its window.

    Raises:
        ValueError: the program is not here, or failed.
    """
    if compression == "none":
        yield cutter
        return
    program = shutil.which("zstd")
    if program is None:
        raise ValueError("the program zstd is not installed")
    scratch = cutter.folder / ".stream.tar"
    try:
        with scratch.open("wb") as stream:
            yield stream
        command = [program, "-9", "--long=30", "-T0", "-c", str(scratch)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as packed:
            assert packed.stdout is not None
            shutil.copyfileobj(packed.stdout, cutter, 1 << 20)
        if packed.returncode != 0:
            raise ValueError(f"zstd ended with {packed.returncode}")
    finally:
        scratch.unlink(missing_ok=True)
