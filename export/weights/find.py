"""Find a checkpoint: a file, a folder, Hugging Face's cache, or a repository on its hub."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from covis.engines.errors import (
    CovisError,
    ExitCode,
    environment_error,
    first_line,
    printable,
    user_error,
)
from covis.export.weights.keys import some
from covis.export.weights.shards import INDEX, is_index, shard_names

WHOLE: Final = "model.safetensors"
PICKLES: Final = (".pt", ".pth", ".bin", ".ckpt", ".pkl")


def find_weights(weights: Path | str, revision: str | None = None) -> Path:
    """Return the file of a checkpoint: a safetensors file, or the index of a sharded one.

    Args:
        weights: One of these: such a file; a folder that contains one, also a folder in Hugging
            Face's cache (`models--OWNER--NAME` or its snapshot); `owner/name` on the hub.
        revision: Commit, tag or branch on the hub.

    Raises:
        CovisError: no such file, a pickle, or a hub that cannot be reached.
    """
    path = Path(weights).expanduser()
    if path.suffix.lower() in PICKLES:
        raise user_error(
            "this is a pickle, and opening a pickle runs code that it holds",
            where=path,
            hint="use the .safetensors file of the same model, or convert this one: "
            "covis convert-checkpoint FILE OUT.safetensors",
        )
    if path.is_file():
        return path
    if path.is_dir():
        return _in_folder(path)
    if path.suffix in (".safetensors", ".json") or str(weights).count("/") != 1:
        raise user_error("no such weights file", where=path, hint="check the path")
    return _from_hub(str(weights), revision)


def _in_folder(folder: Path) -> Path:
    """Return the checkpoint in a folder: `model.safetensors`, its index, or the one file there."""
    folder = _snapshot(folder)
    for name in (WHOLE, INDEX):
        if (folder / name).is_file():
            return folder / name
    files = sorted(
        p for p in folder.iterdir() if p.is_file() and (p.suffix == ".safetensors" or is_index(p))
    )
    if len(files) == 1:
        return files[0]
    if files:
        names = some([file.name for file in files])
        raise user_error("this is a folder", where=folder, hint=f"name a file in it: {names}")
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in PICKLES)
    if pickles:
        raise user_error(
            f"this is a folder with pickles alone ({some(pickles)})",
            where=folder,
            hint="convert one: covis convert-checkpoint FILE OUT.safetensors",
        )
    raise user_error(
        "this is a folder without weights", where=folder, hint="name the .safetensors file"
    )


def _snapshot(folder: Path) -> Path:
    """Return the snapshot in a repository's folder of Hugging Face's cache; any other folder is
    returned as it is.

    Such a folder contains `snapshots/COMMIT/` and, by branch or tag, the commit in `refs/`.
    """
    snapshots = folder / "snapshots"
    if not snapshots.is_dir():
        return folder
    there = {path.name: path for path in sorted(snapshots.iterdir()) if path.is_dir()}
    with contextlib.suppress(OSError, ValueError):
        main = (folder / "refs" / "main").read_text()[:200].strip()
        if main in there:
            return there[main]
    if len(there) == 1:
        return next(iter(there.values()))
    names = some(list(there)) or "none"
    raise user_error(
        f"this is a folder of Hugging Face's cache with {len(there)} snapshots ({names})",
        where=folder,
        hint="name the .safetensors file in one of them",
    )


def _from_hub(repository: str, revision: str | None) -> Path:
    """Download a checkpoint, whole or in shards, and the configuration beside it."""
    try:
        file = Path(download(repository, WHOLE, revision))
    except _AbsentError as absent:
        try:
            file = Path(download(repository, INDEX, revision))
        except _AbsentError:
            raise absent from None
        for name in shard_names(file):
            download(repository, name, revision)
    # Some models publish their sizes in a file beside the weights; others have no such file.
    with contextlib.suppress(CovisError):
        download(repository, "config.json", revision)
    return file


class _AbsentError(CovisError):
    """The repository exists and has no such file."""


def download(repository: str, filename: str, revision: str | None) -> str:
    """Return one file of a hub repository, from the local cache if it is there."""
    from huggingface_hub import errors, hf_hub_download

    try:
        return str(hf_hub_download(repository, filename, revision=revision))
    except Exception as error:  # the hub client raises a dozen unrelated types
        reason = first_line(error, 200)
        what = f"{filename} could not be fetched from the Hugging Face hub ({reason})"
        hint = "check the name and the network, or pass the path of a downloaded file"
        if isinstance(error, errors.GatedRepoError):
            hint = "accept its licence on its page, then log in: hf auth login"
        local = isinstance(error, errors.LocalEntryNotFoundError)  # no network, nothing cached
        if isinstance(error, errors.EntryNotFoundError) and not local:
            hint = "pass the path of a downloaded file; covis convert-checkpoint converts a pickle"
            raise _AbsentError(ExitCode.USER, what, where=repository, hint=hint) from error
        raise environment_error(what, where=printable(repository), hint=hint) from error
