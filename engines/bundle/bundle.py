"""Open a bundle after every file of it has been verified, and replace its manifest atomically."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from covis.engines.bundle.manifest import File, Manifest, Stage, Tensor
from covis.engines.errors import CovisError, environment_error, user_error
from covis.engines.system.atomic import atomic_file
from covis.engines.system.drafts import is_draft
from covis.engines.system.files import entries
from covis.engines.system.replace import REPLACE_HINT, check_own_files

MANIFEST = "manifest.json"
PLANS = "plans"  # folder of built engines, which have records of their own instead of an entry
_MAX_MANIFEST = 16 << 20
# Assets of an installed package: uv and conda install files as hard links into their caches.
_ASSETS = Path(__file__).resolve().parents[2] / "assets"
_REEXPORT = "export the bundle again or copy it anew"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle, whose files all had the listed size and digest.

    Attributes:
        path: Folder of the bundle.
        manifest: Contents of its manifest.
    """

    path: Path
    manifest: Manifest

    def graph(self, stage: Stage) -> Path:
        """Return the path of a stage's ONNX file."""
        return self.path / stage.graph

    @property
    def weights(self) -> Path:
        """Path of the safetensors file that the graphs' initializers point into."""
        return self.path / self.manifest.weights.file

    def digest(self) -> str:
        """Return the sha256 of the manifest, which contains the digest of every other file."""
        return hashlib.sha256((self.path / MANIFEST).read_bytes()).hexdigest()


def open_bundle(path: Path | str) -> Bundle:
    """Verify a bundle and open it.

    Every file must be listed, be in the folder itself (no symbolic links, no hard links to
    elsewhere, except in the package's own assets), and have the listed size and sha256. Graphs may
    only point into the listed weights file. Nothing is loaded before all of this is verified.

    Raises:
        CovisError: naming the faulty file (exit code 2).
    """
    folder = Path(path)
    try:
        if not folder.is_dir():
            raise user_error(
                "no such bundle folder", where=folder, hint="make one with `covis export`"
            )
        manifest = _read_manifest(folder)
        _check_listing(folder, manifest)
        for file in manifest.files:
            _check_file(folder, file)
        for stage in manifest.stages:
            _check_graph(folder, stage, manifest)
    except OSError as error:
        raise environment_error(
            f"cannot be read ({error.strerror or error})",
            where=error.filename or folder,
            hint="check rights and disk",
        ) from error
    return Bundle(folder, manifest)


def check_replaceable(folder: Path) -> None:
    """Refuse to replace a folder that is no bundle, or that contains other files; see `replace`.

    Raises:
        CovisError: naming the first file that is no part of a bundle (exit code 2).
    """
    is_bundle = folder.is_dir() and not folder.is_symlink() and any(folder.iterdir())
    try:
        is_listed = _listing(_read_manifest(folder)) if is_bundle else lambda name: False
    except CovisError as error:
        raise user_error(
            f"is no intact bundle, and is not replaced ({error.where}: {error.what})",
            where=folder,
            hint=REPLACE_HINT,
        ) from error
    check_own_files(folder, is_listed, "which its manifest does not list")


def describe_file(folder: Path, name: str) -> File:
    """Create the manifest entry of a file in `folder`."""
    path = folder / name
    return File(path=name, size=path.stat().st_size, sha256=sha256_of(path))


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file of any size, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    _check_plain(folder, MANIFEST)
    if path.stat().st_size > _MAX_MANIFEST:
        raise user_error("is larger than 16 MiB", where=path, hint=_REEXPORT)
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except CovisError as error:  # from the range check of an option
        raise user_error(f"is not valid: {error}", where=path, hint=_REEXPORT) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise user_error(
            f"is not valid at {place or 'the top'}: {first['msg']}", where=path, hint=_REEXPORT
        ) from error


def _listing(manifest: Manifest) -> Callable[[str], bool]:
    """Return the test whether a file, by its path in the folder, belongs to the bundle.

    So do drafts of the manifest, which nothing reads: another process writes it at this moment, or
    was killed then, and the next rewrite removes what it left.
    """
    listed = {file.path for file in manifest.files} | {MANIFEST}
    return lambda name: name in listed or name.startswith(f"{PLANS}/") or is_draft(name, MANIFEST)


def _check_listing(folder: Path, manifest: Manifest) -> None:
    is_listed = _listing(manifest)
    for name in entries(folder):
        if not is_listed(name):
            raise user_error("is not listed in the manifest", where=folder / name, hint="remove it")


def _check_plain(folder: Path, name: str) -> os.stat_result:
    """Refuse links of either kind, linked folders, and everything else but a regular file."""
    path = folder / name
    try:
        facts = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise user_error("is missing", where=path, hint=_REEXPORT) from None
    parent = path.parent
    while parent != folder:
        if parent.is_symlink():
            raise user_error("is a symbolic link", where=parent, hint="put the folder itself there")
        parent = parent.parent
    if stat.S_ISLNK(facts.st_mode):
        raise user_error("is a symbolic link", where=path, hint="put the file itself there")
    if not stat.S_ISREG(facts.st_mode):
        raise user_error("is not a regular file", where=path, hint=_REEXPORT)
    if facts.st_nlink > 1 and _ASSETS not in path.resolve().parents:
        raise user_error("is a hard link", where=path, hint="replace it by a copy (cp)")
    return facts


def _check_file(folder: Path, file: File) -> None:
    facts = _check_plain(folder, file.path)
    path = folder / file.path
    if facts.st_size != file.size:
        raise user_error(
            f"has {facts.st_size:,} bytes where the manifest says {file.size:,}",
            where=path,
            hint=_REEXPORT,
        )
    if sha256_of(path) != file.sha256:
        raise user_error("is not what was exported (sha256 differs)", where=path, hint=_REEXPORT)


def _check_graph(folder: Path, stage: Stage, manifest: Manifest) -> None:
    """Compare a graph's inputs, outputs and external data with the manifest."""
    from covis.engines.graphs.read import external_data, load_graph, signature

    path = folder / stage.graph
    model = load_graph(path)
    for kind, tensors, ports in zip(
        ("input", "output"), (stage.inputs, stage.outputs), signature(model), strict=True
    ):
        listed = {tensor.name: tensor for tensor in tensors}
        for name in sorted(listed.keys() ^ ports.keys()):
            where = "graph" if name in ports else "manifest"
            raise user_error(f"only the {where} has {kind} {name!r}", where=path, hint=_REEXPORT)
        for name, port in ports.items():
            if port.dtype != listed[name].dtype or not _fits(listed[name], port.shape):
                raise user_error(
                    f"{kind} {name!r} is {port.dtype} {_dims(port.shape)} in the graph, "
                    f"{listed[name].dtype} {_dims(listed[name].shape)} in the manifest",
                    where=path,
                    hint=_REEXPORT,
                )
    size = next(file.size for file in manifest.files if file.path == manifest.weights.file)
    for entry in external_data(model):
        if entry.location != manifest.weights.file:
            raise user_error(
                f"tensor {entry.tensor!r} points to {entry.location!r}, not to the weights file",
                where=path,
                hint="do not trust this bundle",
            )
        if entry.offset < 0 or entry.length < 0 or entry.offset + entry.length > size:
            raise user_error(
                f"tensor {entry.tensor!r} points past the end of {entry.location!r}",
                where=path,
                hint=_REEXPORT,
            )


def _fits(tensor: Tensor, shape: tuple[int | None, ...] | None) -> bool:
    """Return True if a graph's shape matches the manifest's; its symbols match any size."""
    if shape is None:
        return True
    listed = tuple(size if isinstance(size, int) else None for size in tensor.shape)
    return len(listed) == len(shape) and all(
        dim is None or dim == size for dim, size in zip(shape, listed, strict=True)
    )


def _dims(shape: tuple[int | str | None, ...] | None) -> str:
    if shape is None:
        return "of any shape"
    return f"({', '.join('?' if dim is None else str(dim) for dim in shape)})"


def rewrite_manifest(bundle: Bundle, manifest: Manifest) -> Bundle:
    """Replace only the manifest of a bundle, atomically.

    The bundle's digest changes with it, so records that name the old digest do not match any more.

    Raises:
        CovisError: the folder cannot be written.
    """
    target = bundle.path / MANIFEST
    with atomic_file(target, keep_mode=True) as stream:
        stream.write((manifest.model_dump_json(indent=1) + "\n").encode())
    return Bundle(bundle.path, manifest)
