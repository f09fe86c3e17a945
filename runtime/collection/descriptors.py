"""Descriptors of all views of a collection: the encoder over a few photos at a time, resumable."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from covis.engines.bundle.manifest import Manifest, Stage
from covis.engines.bundle.names import PAIR_LEVELS
from covis.engines.errors import CovisError, ExitCode, user_error
from covis.engines.schedule import resolve
from covis.engines.system.atomic import atomic_file
from covis.runtime.flow import Step
from covis.runtime.memory.device_array import Value
from covis.runtime.photos.batch import passed_over
from covis.runtime.photos.decode import title_of
from covis.runtime.photos.files import stamp
from covis.runtime.photos.images import Images
from covis.runtime.photos.selection import Selection
from covis.runtime.pipeline import Pipeline, StageProgress
from covis.runtime.stage_io import symbol_lengths, widen

Descriptors = NDArray[np.float32]

PHOTOS_AT_ONCE: Final = 64
"""Photos whose pixels and tokens are in memory together: 0.3 GB of tokens at VGGT's 518 x 518."""
_RESTART: Final = "give --restart to compute everything anew"
_NO_FILE: Final = (-1, -1)
_ARRAYS: Final = ("descriptors", "kept", "notes")


@dataclass(frozen=True)
class Described:
    """Photos of a collection that can be decoded, with their descriptors.

    Attributes:
        selection: The n photos, in order; its notes are those of the whole selection, and a line
            for each photo that was passed over or changed in decoding.
        descriptors: (n, C) float32 unit vectors. The cosine of two is the similarity of their
            views by which a bundle with the pooling `descriptor` chooses pairs.
    """

    selection: Selection
    descriptors: Descriptors


@dataclass(frozen=True)
class _Chunk:
    """What one file on the disk says about some consecutive photos."""

    descriptors: Descriptors
    kept: NDArray[np.int64]
    notes: tuple[str, ...]


def describe(
    pipeline: Pipeline,
    selection: Selection,
    folder: Path,
    *,
    progress: StageProgress | None = None,
    at_once: int = PHOTOS_AT_ONCE,
) -> Described:
    """Compute the descriptor of every photo, and keep what is done in a folder.

    The descriptor of a view is the mean of its patch tokens, each scaled to unit length, scaled to
    unit length again. Tokens are those of the bundle's encoder. After every `at_once` photos a file
    is written; a pass that was interrupted goes on after the last one.

    Args:
        pipeline: Pipeline of the bundle.
        selection: Photos of the collection.
        folder: Folder for the files, which exists.
        progress: Called with `descriptors`, the photos done and the number of photos.
        at_once: Largest number of photos in memory.

    Raises:
        CovisError: A photo cannot be decoded (without `skip_bad`), or none can; a photo, the list
            of photos or the bundle is another than in the pass that left the folder's files; the
            encoder fails; a file cannot be written.
    """
    report = progress or (lambda stage, done, total: None)
    total = len(selection.photos)
    report("descriptors", 0, total)
    encoder = _Encoder(pipeline)
    done = 0
    chunks: list[_Chunk] = []
    # Slices of equal length: one left over could be a single photo, whose error has another cure.
    count = max(1, math.ceil(total / at_once))
    slices = [range(i * total // count, (i + 1) * total // count) for i in range(count)]
    for number, part in enumerate(slices):
        path = folder / f"descriptors-{number:05}.npz"
        some = selection.take(part)
        if path.exists():
            chunks.append(_load(path, some, encoder.digest))
        else:
            chunks.append(_compute(encoder, some, path))
        done += len(part)
        report("descriptors", done, total)
    kept = np.concatenate([c.kept + part.start for c, part in zip(chunks, slices, strict=True)])
    notes = [*selection.notes, *(note for chunk in chunks for note in chunk.notes)]
    if not len(kept):
        raise user_error(
            f"none of {total} photos can be decoded; the first: {notes[len(selection.notes)]}",
            where="photos",
            hint="give photos that are whole",
        )
    found = replace(selection.take(kept), notes=tuple(notes))
    return Described(found, np.concatenate([c.descriptors for c in chunks if len(c.kept)]))


class _Encoder:
    """The encoder of a bundle, as a function from photos to descriptors."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.digest = pipeline.bundle.digest()
        stage, self.tokens = _encoder(pipeline.bundle.manifest)
        self.step = Step(stage, frozenset(), frozenset())
        self.rule = pipeline.bundle.manifest.pixel_rule

    def __call__(self, images: Images) -> Descriptors:
        """Return the descriptors (n, C) of n photos."""
        pipeline, views = self.pipeline, len(images)
        controls = pipeline.controls(resolve(pipeline.bundle.manifest.sparsity, views), views)
        lengths = symbol_lengths(controls)
        pipeline.backend.check((self.step,), views, pipeline.options.frames_at_once, lengths)
        values: dict[str, Value] = dict(controls)
        outputs = pipeline.run_stage(self.step, images, values, lambda stage, done, total: None)
        return pooled(np.asarray(outputs[self.tokens]))


def pooled(tokens: NDArray[Any]) -> Descriptors:
    """Return the unit descriptors (n, C) of views with the patch tokens (n, P, C)."""
    means = np.empty((len(tokens), tokens.shape[2]), np.float64)
    for mean, of_view in zip(means, tokens, strict=True):
        view = widen(of_view)
        norms = np.sqrt(np.einsum("pc,pc->p", view, view, dtype=np.float64))
        mean[:] = (1 / np.maximum(norms, 1e-12)) @ view
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    unit: Descriptors = (means / np.maximum(lengths, 1e-12)).astype(np.float32)
    return unit


def _encoder(manifest: Manifest) -> tuple[Stage, str]:
    """Return the stage that writes the tokens which saliency compares, and their name."""
    saliency = next(stage for stage in manifest.stages if stage.writes(PAIR_LEVELS))
    name = next(t.name for t in saliency.inputs if len(t.shape) == 3 and t.shape[0] == "M")
    return next(stage for stage in manifest.stages if stage.writes(name)), name


def _compute(encoder: _Encoder, selection: Selection, path: Path) -> _Chunk:
    """Compute the descriptors of a slice of the photos, and write them."""
    stamps = _stamps(selection)
    images, kept, notes = _decoded(encoder, selection)
    vectors = np.empty((0, 0), np.float32) if images is None else encoder(images)
    chunk = _Chunk(vectors, np.array(kept, np.int64), notes)
    with atomic_file(path) as stream:
        np.savez(
            stream,
            descriptors=chunk.descriptors,
            kept=chunk.kept,
            notes=np.array(chunk.notes, np.str_),
            names=np.array(selection.names, np.str_),
            stamps=stamps,
            bundle=np.array(encoder.digest),
        )
    return chunk


def _decoded(
    encoder: _Encoder, selection: Selection
) -> tuple[Images | None, list[int], tuple[str, ...]]:
    """Decode a slice; return the photos, their places in the slice, and the notes."""
    try:
        images = selection.load(encoder.rule)
    except CovisError as error:
        if not selection.skip_bad or error.code != ExitCode.USER:
            raise
        return None, [], _faults(encoder, selection)
    places = {name: place for place, name in enumerate(selection.names)}
    return images, [places[name] for name in images.names], images.notes


def _faults(encoder: _Encoder, selection: Selection) -> tuple[str, ...]:
    """Return a line for each photo of a slice of which none can be decoded."""
    notes = []
    for index in range(len(selection.photos)):
        try:
            selection.take([index]).load(encoder.rule)
        except CovisError as error:
            notes.append(passed_over(title_of(selection.photos[index], index), error))
    return tuple(notes)


def _load(path: Path, selection: Selection, digest: str) -> _Chunk:
    """Read what an earlier pass wrote about a slice of the photos, if they are still the same.

    Raises:
        CovisError: The bundle, the list of photos or a photo is another, or the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            stored = {name: file[name] for name in (*_ARRAYS, "names", "stamps", "bundle")}
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise user_error(
            f"is damaged ({type(error).__name__})",
            where=path,
            hint="remove it, and its descriptors are computed again",
        ) from error
    if str(stored["bundle"]) != digest:
        raise user_error(
            "was computed with another bundle", where=path, hint=f"name that bundle, or {_RESTART}"
        )
    before = [str(name) for name in stored["names"]]
    for old, name in zip_longest(before, selection.names):
        if old != name:
            change = "is missing now" if name is None or old is not None else "is new"
            raise user_error(
                f"{change}: the photos are others than when this collection was begun",
                where=str(old if old is not None else name),
                hint=f"give the same photos and options, or {_RESTART}",
            )
    changed = np.flatnonzero((stored["stamps"] != _stamps(selection)).any(axis=1))
    if len(changed):
        raise user_error(
            "has changed since its descriptor was computed",
            where=selection.names[int(changed[0])],
            hint=f"restore it, or {_RESTART}",
        )
    notes = tuple(str(note) for note in stored["notes"])
    return _Chunk(stored["descriptors"], stored["kept"], notes)


def _stamps(selection: Selection) -> NDArray[np.int64]:
    """Return size and time of the last change (n, 2) of the photos' files; -1 where none is."""
    return np.array([stamp(photo) or _NO_FILE for photo in selection.photos], np.int64)
