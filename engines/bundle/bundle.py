"""Open a bundle after every file of it has been verified, and replace its manifest atomically."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from covis.engines.bundle.folder import EXPORT, MANIFEST, PLANS, check_listing
from covis.engines.bundle.manifest import FORMAT, File, Listing, Manifest, Stage
from covis.engines.bundle.verified import VerifiedFile, VerifiedGraph
from covis.engines.errors import CovisError, environment_error, user_error
from covis.engines.limits import GRAPH, MANIFEST_FILE, Limit
from covis.engines.system.atomic import atomic_file
from covis.engines.system.drafts import is_draft
from covis.engines.system.replace import REPLACE_HINT, check_own_files

# Assets of an installed package: uv and conda install files as hard links into their caches.
_ASSETS = Path(__file__).resolve().parents[2] / "assets"
_LINK: Final = (
    "put the file itself there; for a bundle from the Hugging Face hub, download it with "
    "snapshot_download(..., local_dir=FOLDER)"
)


@dataclass(frozen=True)
class Bundle:
    """An opened bundle, whose files all had the listed size and digest.

    The files stay open. Whatever is loaded later is what was verified; see `bundle.verified`.

    Attributes:
        path: Folder of the bundle.
        manifest: Contents of its manifest.
        record: File of the manifest.
        files: Every listed file by its path in the folder.
    """

    path: Path
    manifest: Manifest
    record: VerifiedFile
    files: Mapping[str, VerifiedFile]

    def graph(self, stage: Stage) -> VerifiedGraph:
        """Return a stage's ONNX file, with the file of its weights."""
        return VerifiedGraph(self.files[stage.graph], {self.manifest.weights.file: self.weights})

    @property
    def weights(self) -> VerifiedFile:
        """Safetensors file that the graphs' initializers point into."""
        return self.files[self.manifest.weights.file]

    def digest(self) -> str:
        """Return the sha256 of the manifest, which contains the digest of every other file."""
        return self.record.sha256


def open_bundle(path: Path | str) -> Bundle:
    """Verify a bundle and open it.

    Every file must be listed, be in the folder itself (no symbolic links, no hard links to
    elsewhere, except in the package's own assets), and have the listed size and sha256. Graphs may
    only point into the listed weights file. Nothing is loaded before all of this is verified.

    Raises:
        CovisError: naming the faulty file (exit code 2).
    """
    from covis.engines.bundle.graph import check_graph

    folder = Path(path)
    try:
        if not folder.is_dir():
            raise user_error(
                "no such bundle folder", where=folder, hint="make one with `covis export`"
            )
        record, manifest = _read_manifest(folder)
        check_listing(folder, manifest)
        graphs = {stage.graph for stage in manifest.stages}
        files = {f.path: _verified(folder, f, f.path in graphs) for f in manifest.files}
        bundle = Bundle(folder, manifest, record, files)
        for stage in manifest.stages:
            graph = bundle.graph(stage)
            check_graph(graph.model(), graph.path, stage, manifest)
    except OSError as error:
        raise environment_error(
            f"cannot be read ({error.strerror or error})",
            where=error.filename or folder,
            hint="check rights and disk",
        ) from error
    return bundle


def check_replaceable(folder: Path) -> None:
    """Refuse to replace a folder that is no bundle, or that contains other files; see `replace`.

    Raises:
        CovisError: naming the first file that is no part of a bundle (exit code 2).
    """
    is_bundle = folder.is_dir() and not folder.is_symlink() and any(folder.iterdir())
    try:
        is_listed = _listing(_read_files(folder)) if is_bundle else lambda name: False
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


def rewrite_manifest(bundle: Bundle, manifest: Manifest) -> Bundle:
    """Replace only the manifest of a bundle, atomically.

    The bundle's digest changes with it, so records that name the old digest do not match any more.

    Raises:
        CovisError: another program has changed the manifest since it was read (exit code 2); the
            folder cannot be written (3).
    """
    bundle.record.check()
    target = bundle.path / MANIFEST
    data = (manifest.model_dump_json(indent=1) + "\n").encode()
    with atomic_file(target, keep_mode=True) as stream:
        stream.write(data)
    record = VerifiedFile(target, sha256=hashlib.sha256(data).hexdigest())
    return replace(bundle, manifest=manifest, record=record)


def _read_manifest(folder: Path) -> tuple[VerifiedFile, Manifest]:
    path = folder / MANIFEST
    record = _open_plain(folder, MANIFEST, most=MANIFEST_FILE)
    try:
        return record, Manifest.model_validate_json(record.read())
    except CovisError as error:  # from the range check of an option
        if error.where == str(path):
            raise
        raise user_error(f"is not valid: {error}", where=path, hint=EXPORT) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["loc"] == ("format",) and first["type"] != "missing":
            raise user_error(
                f"has format {first['input']!r}, and this covis reads format {FORMAT}: it was "
                "exported by another version",
                where=path,
                hint=EXPORT,
            ) from error
        place = ".".join(str(part) for part in first["loc"])
        raise user_error(
            f"is not valid at {place or 'the top'}: {first['msg']}", where=path, hint=EXPORT
        ) from error


def _read_files(folder: Path) -> tuple[File, ...]:
    """Read the list of files alone, which bundles of every version have."""
    try:
        record = _open_plain(folder, MANIFEST, most=MANIFEST_FILE)
        return Listing.model_validate_json(record.read()).files
    except ValidationError as error:
        raise user_error("lists no files", where=folder / MANIFEST, hint=EXPORT) from error


def _listing(files: Sequence[File]) -> Callable[[str], bool]:
    """Return the test whether a file, by its path in the folder, may be replaced with the bundle.

    Drafts of the manifest are part of it: another process writes one at this moment, or was killed
    then, and the next rewrite removes what it left.
    """
    listed = {file.path for file in files} | {MANIFEST}
    return lambda name: name in listed or name.startswith(f"{PLANS}/") or is_draft(name, MANIFEST)


def _verified(folder: Path, file: File, is_graph: bool) -> VerifiedFile:
    most = GRAPH if is_graph else None
    return _open_plain(folder, file.path, size=file.size, sha256=file.sha256, most=most)


def _open_plain(
    folder: Path,
    name: str,
    *,
    size: int | None = None,
    sha256: str | None = None,
    most: Limit | None = None,
) -> VerifiedFile:
    """Open a file of a bundle; refuse links of either kind, and linked folders."""
    path = folder / name
    for parent in path.relative_to(folder).parents:
        if (folder / parent).is_symlink() and parent != Path():
            raise user_error("is a symbolic link", where=folder / parent, hint=_LINK)
    file = VerifiedFile(path, size=size, sha256=sha256, most=most, hint=EXPORT, link_hint=_LINK)
    if file.links > 1 and _ASSETS not in path.resolve().parents:
        raise user_error("is a hard link", where=path, hint="replace it by a copy (cp)")
    return file
