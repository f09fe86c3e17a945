"""From photos to a scene: run the stages of a bundle one after the other."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from covis.engines.bundle.bundle import Bundle, open_bundle
from covis.engines.bundle.names import ANCHOR_ORDER, PAIR_LEVELS
from covis.engines.dtypes import numpy_dtype
from covis.engines.errors import GpuOutOfMemoryError
from covis.engines.options import RunOptions, Sparsity, SparsityChanges
from covis.engines.pair_rules import pair_rules
from covis.engines.schedule import layer_regimes, reason, resolve
from covis.runtime import flow
from covis.runtime.backends.backend import Backend, StageSession, open_backend
from covis.runtime.controls import control_inputs
from covis.runtime.memory.device_array import Value
from covis.runtime.memory.memory import HostMemory
from covis.runtime.overrides import checked_anchors, checked_pairs
from covis.runtime.photos.images import Images
from covis.runtime.photos.options import PhotoOptions
from covis.runtime.photos.selection import load_photos
from covis.runtime.scene.adjust import adjust
from covis.runtime.scene.from_heads import decode
from covis.runtime.scene.options import SceneOptions
from covis.runtime.scene.scene import Scene
from covis.runtime.stage_io import (
    check_finite,
    empty_outputs,
    run_in_chunks,
    symbol_lengths,
    widen,
)

Array = NDArray[Any]
StageProgress = Callable[[str, int, int], None]
"""Called with a stage's name, the frames done and the number of frames; first with 0 done."""


class Pipeline:
    """A loaded bundle: call it with photos, get a `Scene`.

    Stages are loaded when first needed and stay loaded, so a second call starts at once.

    Attributes:
        bundle: Opened and checked bundle.
        options: Options of the run: backend, chunk size and threads.
        notes: Warnings about options that had to be adjusted, photos that were passed over or
            changed, and doubts about the result; each is listed once.
    """

    def __init__(self, bundle: Bundle, options: RunOptions | None = None) -> None:
        self.bundle = bundle
        self.options = options or RunOptions()
        self._backend: Backend | None = None
        self.notes: list[str] = []

    def __call__(
        self,
        photos: Images | Path | str | Iterable[Any],
        *,
        sparsity: Sparsity | None = None,
        pair_level: Array | None = None,
        anchor_order: ArrayLike | None = None,
        progress: StageProgress | None = None,
        photo_options: PhotoOptions | None = None,
        scene_options: SceneOptions | None = None,
    ) -> Scene:
        """Reconstruct one scene.

        Args:
            photos: Folder of photos and videos, a file, an iterable of files, of uint8 (H, W, 3)
                arrays or of PIL images, or `Images`.
            sparsity: Selector options of this run; by default those of the bundle.
            pair_level: Map of view pairs (M, M) to use in the layers of saliency: 0
                skipped, 1 low precision allowed, 2 full precision. Row i lists what view i attends
                to. Self-pairs must be 2. The options `tau`, `min_neighbours` and `reference` have
                no effect on it. For pairs that are known otherwise (GPS, video order, a matcher)
                and for comparing selectors.
            anchor_order: Indices of the views to take as anchors, in this order, in the place of
                those that `anchor_choice` would take. A layer takes as many as its regime has
                anchors; where there are fewer, the farthest views follow.
            progress: Called with the name of a stage, the frames done and the number of frames.
            photo_options: Choice of photos and video frames, and masks; without effect on `Images`.
            scene_options: Shared cameras, frame of the world and masks, as `covis run` applies
                them; without, the scene is as the model returns it.

        Raises:
            CovisError: A photo, an option, the map, the anchors or the machine is at fault, or
                results are not finite.
        """
        on_progress = progress or (lambda stage, done, total: None)
        options = sparsity or self.bundle.manifest.sparsity
        images = self.load_photos(photos, photo_options, on_progress)
        views = len(images)
        for note in images.notes:
            self._note(note)
        chosen = resolve(options, views)
        self._note_many_anchors(chosen, views)
        levels = None if pair_level is None else self.pair_maps(pair_level, views, chosen)
        order = None if anchor_order is None else self._order(anchor_order, views, chosen)
        values = self.run_stages(images, chosen, on_progress, levels, order)
        scene = decode(self.bundle, images, chosen, values, reason(options, views))
        if scene_options is not None:
            scene = adjust(scene, scene_options, self.bundle.manifest.model.name)
        for note in scene.notes:
            self._note(note)
        facts: dict[str, Any] = dict(self.backend.about())
        if levels is not None:
            facts["pair_level"] = "given by the caller"
        if order is not None:
            facts["anchor_order"] = "given by the caller"
        return replace(scene, provenance={**scene.provenance, **facts})

    @property
    def backend(self) -> Backend:
        """Backend that runs the stages; opened when first needed.

        Raises:
            CovisError: This machine lacks something that the backend requires (exit code 3).
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
        on_progress: StageProgress,
        pair_levels: NDArray[np.int8] | None = None,
        anchor_order: NDArray[np.int64] | None = None,
    ) -> dict[str, Array]:
        """Run all stages and return the outputs that a scene is built from, by name, on the host.

        Maps `pair_levels` int8 (R, M, M) replace those of the saliency stage, and `anchor_order`
        int64 (M,) replaces the control input of that name.

        Raises:
            CovisError: The views do not fit into memory, a stage fails, or results are not finite.
        """
        backend, views = self.backend, len(images)
        run = flow.steps(self.bundle.manifest, sparsity)
        controls = self.controls(sparsity, views)
        if anchor_order is not None:
            controls[ANCHOR_ORDER] = self.as_read(ANCHOR_ORDER, anchor_order)
        lengths = symbol_lengths(controls)
        backend.check(run, views, self.options.frames_at_once, lengths)
        try:
            values: dict[str, Value] = dict(controls)
            for step in run:
                values.update(self.run_stage(step, images, values, on_progress))
                if pair_levels is not None and step.stage.writes(PAIR_LEVELS):
                    values[PAIR_LEVELS] = backend.memory.put(self.as_read(PAIR_LEVELS, pair_levels))
                for name in step.done:
                    values.pop(name, None)  # patch tokens and taps are by far the largest arrays
            return {name: widen(backend.memory.get(value)) for name, value in values.items()}
        except GpuOutOfMemoryError as error:
            values = {}
            traceback.clear_frames(error.__traceback__)  # these keep the failed run's arrays alive
            backend.release()
            backend.check(run, views, self.options.frames_at_once, lengths)
            raise

    def controls(self, sparsity: Sparsity, views: int) -> dict[str, Array]:
        """Return the control inputs of a run, on the host, in the types that the graphs read."""
        inputs = control_inputs(self.bundle.manifest, sparsity, views, self.options.probes)
        return {name: self.as_read(name, array) for name, array in inputs.items()}

    def as_read(self, name: str, array: Array) -> Array:
        """Convert an array to the type in which this bundle's graphs read the input `name`."""
        ports = (t for stage in self.bundle.manifest.stages for t in stage.inputs)
        dtype = next((port.dtype for port in ports if port.name == name), array.dtype.name)
        return array.astype(numpy_dtype(dtype), copy=False)

    def _note_many_anchors(self, sparsity: Sparsity, views: int) -> None:
        regimes = layer_regimes(sparsity, self.bundle.manifest.model.global_layers)
        most = max((regime.anchors or 0 for regime in regimes), default=0)
        if most > views:
            self._note(f"{most} anchors are more than the {views} views: every view is an anchor")

    def pair_maps(self, pair_level: Array, views: int, sparsity: Sparsity) -> NDArray[np.int8]:
        """Return maps (R, M, M) with a caller's map in the place of saliency's."""
        model = self.bundle.manifest.model
        regimes = layer_regimes(sparsity, model.global_layers)
        level = checked_pairs(pair_level, views, sparsity, regimes)
        rules = pair_rules(sparsity, model.global_layers, views, model.reference_view)
        own = {
            "dense": np.full((views, views), 2, np.int8),
            "self": 2 * np.eye(views, dtype=np.int8),
            "saliency": level,
        }
        kinds = dict(zip(rules.layer_map.tolist(), (r.kind for r in regimes), strict=True))
        levels: NDArray[np.int8] = np.stack([own[kinds[r]] for r in sorted(kinds)])
        return levels

    def _order(self, anchor_order: ArrayLike, views: int, sparsity: Sparsity) -> NDArray[np.int64]:
        """Return the caller's anchors as the control input of the saliency stage."""
        regimes = layer_regimes(sparsity, self.bundle.manifest.model.global_layers)
        return checked_anchors(anchor_order, views, sparsity, regimes)

    def run_stage(
        self,
        step: flow.Step,
        images: Images,
        values: Mapping[str, Value],
        on_progress: StageProgress,
        session: StageSession | None = None,
    ) -> dict[str, Value]:
        """Run one stage and return its outputs by name.

        Outputs that a later stage reads are in the backend's memory, the others on the host. A
        session that the caller loaded takes the place of the backend's own.

        Raises:
            CovisError: The stage fails, or its results are not finite.
        """
        stage, total = step.stage, len(images)
        on_progress(stage.name, 0, total)
        backend = self.backend
        outputs = empty_outputs(
            stage,
            total,
            values,
            lambda name: backend.memory if name in step.read_later else _HOST,
        )
        length, least = total, 1
        if stage.scope == "frames":
            wanted = min(self.options.frames_at_once, total)
            length, least = backend.chunk(stage, wanted)
            if length != wanted:
                self._note(
                    f"{stage.name} takes {length} frames at once, not {wanted}: its plan's "
                    "profile ends there"
                )
        run_in_chunks(
            stage,
            images,
            values,
            outputs,
            lambda size, inputs, part: (session or backend.session(stage, size)).run(inputs, part),
            length=length,
            least=least,
            on_chunk=lambda done: on_progress(stage.name, done, total),
        )
        for name, array in outputs.items():
            if isinstance(array, np.ndarray):
                check_finite(stage, name, array, images)
        return outputs

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def load_photos(
        self,
        photos: Images | Path | str | Iterable[Any],
        options: PhotoOptions | None = None,
        progress: StageProgress | None = None,
    ) -> Images:
        """Choose photos and decode them to this bundle's pixels, for one run or several.

        Args:
            photos: Folder, file or iterable, as for a call; `Images` are returned as they are.
            options: Choice of photos and video frames, and masks.
            progress: Called with the name of a step, the photos done and the number of photos.

        Raises:
            CovisError: A photo, a video, a mask or an option is at fault.
        """
        if isinstance(photos, Images):
            return photos
        return load_photos(photos, self.bundle.manifest.pixel_rule, options, progress)


_HOST = HostMemory()


def load(bundle: Path | str, options: RunOptions | None = None) -> Pipeline:
    """Open a bundle and check the size and digest of every file.

    Raises:
        CovisError: A file is missing or damaged; the message names it.
    """
    return Pipeline(open_bundle(bundle), options)


def reconstruct(
    photos: Path | str | Iterable[Any],
    bundle: Path | str,
    *,
    sparsity: Sparsity | None = None,
    pair_level: Array | None = None,
    anchor_order: ArrayLike | None = None,
    options: RunOptions | None = None,
    progress: StageProgress | None = None,
    photo_options: PhotoOptions | None = None,
    scene_options: SceneOptions | None = None,
    **changes: Any,
) -> Scene:
    """Reconstruct a scene from photos in one call.

    Args:
        photos: Folder of photos and videos, a file, or an iterable of files, of uint8 (H, W, 3)
            arrays or of PIL images.
        bundle: Folder written by `covis export`.
        sparsity: Selector options; by default those of the bundle.
        pair_level: Map of view pairs (M, M) of 0, 1 and 2 instead of saliency's; see `Pipeline`.
        anchor_order: Indices of the views to take as anchors, in order; see `Pipeline`.
        options: Options of the run: backend, chunk size and threads.
        progress: Called with the name of a stage, the frames done and the number of frames.
        photo_options: Choice of photos and video frames, and masks.
        scene_options: Shared cameras, frame of the world and masks; see `Pipeline`.
        changes: Single fields of `Sparsity` to change, e.g. `tau=0.8`.

    Raises:
        CovisError: The bundle, a photo, an option or the machine is at fault, or results are not
            finite.
    """
    pipeline = load(bundle, options)
    chosen = SparsityChanges(**changes).apply(sparsity or pipeline.bundle.manifest.sparsity)
    return pipeline(
        photos,
        sparsity=chosen,
        pair_level=pair_level,
        anchor_order=anchor_order,
        progress=progress,
        photo_options=photo_options,
        scene_options=scene_options,
    )
