"""From photos to a scene: a bundle's stages, run one after the other."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.bundle.bundle import Bundle, open_bundle
from covis.engines.errors import GpuOutOfMemoryError, user_error
from covis.engines.options import RunOptions, Sparsity
from covis.runtime import flow
from covis.runtime.backends.backend import Backend, open_backend
from covis.runtime.controls import control_inputs
from covis.runtime.flow import is_sound, plain, refuse_non_finite, stage_input
from covis.engines.dtypes import numpy_dtype
from covis.runtime.memory.device_array import Value
from covis.runtime.memory.memory import HostMemory
from covis.runtime.photos.images import Images, find_images, load_images
from covis.runtime.scene.from_heads import decode
from covis.runtime.scene.scene import Scene

Array = NDArray[Any]
Progress = Callable[[str, int, int], None]
"""(stage name, frames done, frames in all); a stage is begun with 0 done."""


class Pipeline:
    """A loaded bundle: call it with photos, get a `Scene`.

    Stages are loaded when first needed and kept, so a second call starts at once.

    Attributes:
        bundle: opened and checked.
        options: how it runs.
        notes: what was done in another way than asked for, in words, once each.
    """

    def __init__(self, bundle: Bundle, options: RunOptions | None = None) -> None:
        self.bundle = bundle
        self.options = options or RunOptions()
        self._backend: Backend | None = None
        self.notes: list[str] = []

    def __call__(
        self,
        photos: Images | Path | str | Sequence[Any],
        *,
        sparsity: Sparsity | None = None,
        pair_level: Array | None = None,
        progress: Progress | None = None,
    ) -> Scene:
        """Reconstruct one scene.

        Args:
            photos: a folder, a list of files, uint8 (H, W, 3) arrays or PIL images, or `Images`.
            sparsity: selector options for this run; the bundle's own where None.
            pair_level: a frame-pair map to use instead of the one that saliency finds, (M, M): 0
                skipped, 1 low precision allowed, 2 full precision, row i saying what view i looks
                at. Self-pairs must be 2. It is taken as it stands: `tau`, `min_neighbours` and
                `reference` have no say. For pairs known otherwise (GPS, video order, a matcher)
                and for comparing selectors.
            progress: told of each stage and chunk.

        Raises:
            CovisError: a photo, an option, the map or the machine at fault; or non-finite results.
        """
        tell = progress or (lambda stage, done, total: None)
        chosen = sparsity or self.bundle.manifest.sparsity
        images = self._images(photos, tell)
        given = None if pair_level is None else checked_pairs(pair_level, len(images), chosen)
        values = self.run_stages(images, chosen, tell, given)
        scene = decode(self.bundle, images, chosen, values)
        facts: dict[str, Any] = dict(self.backend.about())
        if given is not None:
            facts["pair_level"] = "given by the caller"
        return replace(scene, provenance={**scene.provenance, **facts})

    @property
    def backend(self) -> Backend:
        """Where the stages run; opened when first needed.

        Raises:
            CovisError: this machine lacks something for it (exit code 3).
        """
        if self._backend is None:
            options = self.options
            self._backend = open_backend(
                self.bundle, options.backend, options.threads, options.kernel
            )
        return self._backend

    def run_stages(
        self,
        images: Images,
        sparsity: Sparsity,
        tell: Progress,
        pair_level: NDArray[np.int8] | None = None,
    ) -> dict[str, Array]:
        """Every stage's outputs that the scene is made of, by name, on the host.

        A `pair_level` int8 (1, 1, M, M) takes the place of what saliency finds.

        Raises:
            CovisError: the views do not fit into memory; non-finite results; a failing stage.
        """
        backend, views = self.backend, len(images)
        run = flow.steps(self.bundle.manifest, sparsity)
        backend.check(run, views, self.options.frames_at_once, self.options.probes)
        try:
            values: dict[str, Value] = dict(self.controls(sparsity, views))
            for step in run:
                values.update(self.run_stage(step, images, values, tell))
                if step.stage.name == "saliency":
                    level = self.pairs_to_use(sparsity, views, pair_level)
                    if level is not None:
                        values["pair_level"] = backend.memory.put(self.as_read("pair_level", level))
                for name in step.done:
                    values.pop(name, None)  # patch tokens and taps are by far the largest arrays
            return {name: plain(backend.memory.get(value)) for name, value in values.items()}
        except GpuOutOfMemoryError as error:
            values = {}
            traceback.clear_frames(error.__traceback__)  # they hold the failed run's arrays
            backend.release()
            backend.check(run, views, self.options.frames_at_once, self.options.probes)
            raise

    def controls(self, sparsity: Sparsity, views: int) -> dict[str, Array]:
        """The control inputs of a run, on the host, in the types that this bundle's graphs read."""
        made = control_inputs(self.bundle.manifest, sparsity, views, self.options.probes)
        return {name: self.as_read(name, array) for name, array in made.items()}

    def as_read(self, name: str, array: Array) -> Array:
        """An array in the type in which this bundle's graphs read the input `name`."""
        ports = (t for stage in self.bundle.manifest.stages for t in stage.inputs)
        dtype = next((port.dtype for port in ports if port.name == name), array.dtype.name)
        return array.astype(numpy_dtype(dtype), copy=False)

    def pairs_to_use(
        self, sparsity: Sparsity, views: int, given: NDArray[np.int8] | None = None
    ) -> NDArray[np.int8] | None:
        """The frame-pair map that takes the place of what saliency found; None leaves that."""
        if given is not None:
            return given
        if sparsity.selector in ("dense", "pooled"):
            return np.full((1, 1, views, views), 2, np.int8)
        return None

    def run_stage(
        self, step: flow.Step, images: Images, values: Mapping[str, Value], tell: Progress
    ) -> dict[str, Value]:
        """One stage: its outputs by name, those that a later stage reads where the stages run.

        Raises:
            CovisError: a failure inside the stage, or non-finite results.
        """
        stage, total = step.stage, len(images)
        tell(stage.name, 0, total)
        backend = self.backend
        sizes = {"M": total, "N": total, "K": len(values["probe"])}
        outputs: dict[str, Value] = {}
        for tensor in stage.outputs:
            memory = backend.memory if tensor.name in step.read_later else _HOST
            shape, dtype = flow.shape_of(tensor, sizes), numpy_dtype(tensor.dtype)
            outputs[tensor.name] = memory.empty(shape, dtype)
        length, least = total, 1
        if stage.scope == "frames":
            wanted = min(self.options.frames_at_once, total)
            length, least = backend.chunk(stage, wanted)
            if length != wanted:
                self._note(
                    f"{stage.name} takes {length} frames at once, not {wanted}: its plan's "
                    "profile ends there"
                )
        for first, last in flow.chunks(total, length, least):
            session = backend.session(stage, last - first)
            inputs = {t.name: stage_input(t, images, values, first, last) for t in stage.inputs}
            chunk = {n: a[first:last] if length < total else a for n, a in outputs.items()}
            session.run(inputs, chunk)
            tell(stage.name, last, total)
        for name, array in outputs.items():
            if isinstance(array, np.ndarray) and not is_sound(array):
                refuse_non_finite(stage, name, array, images)
        return outputs

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _images(self, photos: Images | Path | str | Sequence[Any], tell: Progress) -> Images:
        if isinstance(photos, Images):
            return photos
        if getattr(photos, "ndim", 4) < 4:  # an array, whose rows would pass as photos
            raise user_error("one array is one photo", where="photos", hint="give a list of photos")
        if isinstance(photos, (str, Path)) or all(isinstance(p, (str, Path)) for p in photos):
            found: Sequence[Any] = find_images(photos)
        else:
            found = photos
        total = len(found)
        tell("images", 0, total)
        done = iter(range(1, total + 1))
        return load_images(
            found,
            self.bundle.manifest.pixel_rule,
            progress=lambda: tell("images", next(done), total),
        )


_HOST = HostMemory()


def load(bundle: Path | str, options: RunOptions | None = None) -> Pipeline:
    """Open a bundle, with every file's size and digest checked.

    Raises:
        CovisError: naming the file that is wrong.
    """
    return Pipeline(open_bundle(bundle), options)


def reconstruct(
    photos: Path | str | Sequence[Any],
    bundle: Path | str,
    *,
    sparsity: Sparsity | None = None,
    pair_level: Array | None = None,
    options: RunOptions | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> Scene:
    """Photos to a scene in one call.

    Args:
        photos: a folder, or a list of files, arrays or PIL images.
        bundle: a folder made by `covis export`.
        sparsity: selector options; the bundle's own where None.
        pair_level: a frame-pair map (M, M) of 0, 1 and 2 instead of saliency's; see `Pipeline`.
        options: chunk size and threads.
        progress: told of each stage and chunk.
        changes: single fields of `Sparsity` to change, e.g. `tau=0.8`.
    """
    pipeline = load(bundle, options)
    chosen = replace(sparsity or pipeline.bundle.manifest.sparsity, **changes)
    return pipeline(photos, sparsity=chosen, pair_level=pair_level, progress=progress)


def checked_pairs(pair_level: Array, views: int, sparsity: Sparsity) -> NDArray[np.int8]:
    """A caller's frame-pair map as the aggregator takes it: int8 (1, 1, M, M).

    Raises:
        CovisError: another shape, other values than 0, 1 and 2, a self-pair that is not 2, or a
            selector that takes no map.
    """
    where = "pair_level"
    if sparsity.selector not in ("saliency", "both"):
        raise user_error(
            f"is given, and the selector {sparsity.selector!r} takes no pairs",
            where=where,
            hint='use selector="saliency" or "both"',
        )
    level = np.asarray(pair_level)
    if level.shape != (views, views):
        raise user_error(
            f"has shape {level.shape}", where=where, hint=f"give ({views}, {views}) for these views"
        )
    if level.dtype.kind not in "iu" or not np.isin(level, (0, 1, 2)).all():
        raise user_error(
            "holds something else than the integers 0, 1 and 2",
            where=where,
            hint="0 skips a pair, 2 computes it in full; a mask of bools is `2 * mask`",
        )
    if (np.diagonal(level) != 2).any():
        raise user_error(
            "skips a self-pair or lowers its precision",
            where=where,
            hint="set its diagonal to 2: a view always sees itself",
        )
    checked: NDArray[np.int8] = level.astype(np.int8)[None, None]
    return checked
