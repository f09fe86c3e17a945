"""Run two backends, bundles or selectors side by side, stage by stage, on the same photos."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.bundle.manifest import Stage
from covis.engines.bundle.names import (
    ANCHOR_RANK,
    IMAGES,
    LAYER_MAP,
    PAIR_LEVELS,
    PROBE,
    TAU,
    role,
)
from covis.engines.dtypes import numpy_dtype
from covis.engines.errors import user_error
from covis.engines.options import Sparsity
from covis.evaluation.compare.tensors import TensorError, tensor_error
from covis.runtime import flow
from covis.runtime.photos.images import Images
from covis.runtime.pipeline import Pipeline, StageProgress
from covis.runtime.scene.from_heads import decode
from covis.runtime.scene.scene import Scene
from covis.runtime.stage_io import widen

Array = NDArray[Any]
Runner = Callable[[flow.Step, Images, Mapping[str, Array]], dict[str, Array]]
_OWN = frozenset(
    {ANCHOR_RANK, PAIR_LEVELS}
)  # depends on a side's own options, never on the other side


@dataclass
class Side:
    """One side of a comparison, the reference or the candidate.

    Attributes:
        pipeline: Bundle and backend.
        sparsity: Selector options, with a selector other than `auto`.
        runners: Functions that run a stage instead of the pipeline, by the stage's name.
    """

    pipeline: Pipeline
    sparsity: Sparsity
    runners: dict[str, Runner] = field(default_factory=dict)

    @property
    def steps(self) -> tuple[flow.Step, ...]:
        """Steps of a run whose results all come to the host."""
        run = flow.steps(self.pipeline.bundle.manifest, self.sparsity)
        return tuple(replace(step, read_later=frozenset()) for step in run)

    def controls(self, views: int) -> dict[str, Array]:
        """Return the control inputs of a run, by name."""
        return self.pipeline.controls(self.sparsity, views)

    def run(self, step: flow.Step, images: Images, values: Mapping[str, Array]) -> dict[str, Array]:
        """Run one stage on host arrays, in this side's own types."""
        typed = {
            t.name: _typed(t.name, t.dtype, values) for t in step.stage.inputs if t.name != IMAGES
        }
        typed |= {name: values[name] for name in (PROBE, TAU)}
        runner = self.runners.get(step.stage.name)
        if runner is not None:
            outputs = runner(step, images, typed)
        else:
            quiet: StageProgress = lambda stage, done, total: None  # noqa: E731
            results = self.pipeline.run_stage(step, images, typed, quiet)
            outputs = {n: self.pipeline.backend.memory.get(v) for n, v in results.items()}
        return outputs


@dataclass(frozen=True)
class StageErrors:
    """Errors of one stage of the candidate against the reference's.

    Attributes:
        stage: Name of the stage in the candidate's bundle.
        alone: Errors of its outputs where it reads the reference's values: its own error.
        end_to_end: Errors of its outputs where it reads the candidate's values: with the errors of
            all stages before.
    """

    stage: str
    alone: tuple[TensorError, ...]
    end_to_end: tuple[TensorError, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the errors for JSON."""
        return {
            "stage": self.stage,
            "alone": [error.as_dict() for error in self.alone],
            "end_to_end": [error.as_dict() for error in self.end_to_end],
        }


def check_sides(reference: Side, candidate: Side) -> None:
    """Reject bundles that cannot be compared stage by stage.

    Raises:
        CovisError: Another model, image size or order of stages (exit code 2).
    """
    ours, theirs = (side.pipeline.bundle.manifest for side in (reference, candidate))
    where = candidate.pipeline.bundle.path
    if (
        ours.model.name != theirs.model.name
        or ours.model.global_layers != theirs.model.global_layers
    ):
        raise user_error("holds another model than the reference", where=where)
    if ours.pixel_rule != theirs.pixel_rule:
        raise user_error(
            "prepares photos in another way than the reference", where=where,
            hint="export both at the same size",
        )  # fmt: skip
    for a, b in zip(reference.steps, candidate.steps, strict=False):
        if role(a.stage.name) != role(b.stage.name):
            raise user_error(
                f"runs {b.stage.name} where the reference runs {a.stage.name}", where=where
            )
    if len(reference.steps) != len(candidate.steps):
        raise user_error("has another number of stages than the reference", where=where)


def compare_stages(
    reference: Side, candidate: Side, images: Images, on_progress: StageProgress
) -> tuple[tuple[StageErrors, ...], Scene, Scene]:
    """Compare every stage alone and end to end; also return the candidate's and reference's scene.

    Raises:
        CovisError: A stage fails on either side.
    """
    check_sides(reference, candidate)
    views = len(images)
    ours, theirs = reference.controls(views), candidate.controls(views)
    own = dict(theirs)  # values that depend on the candidate's options, for its stages run alone
    found: list[StageErrors] = []
    for a, b in zip(reference.steps, candidate.steps, strict=True):
        on_progress(b.stage.name, 0, 3)
        expected = reference.run(a, images, ours)
        on_progress(b.stage.name, 1, 3)
        got = candidate.run(b, images, theirs)
        on_progress(b.stage.name, 2, 3)
        alone = got
        if any(t.name in ours and t.name not in own for t in b.stage.inputs):
            alone = candidate.run(b, images, {**ours, **own})
        both = [_by_layer(outputs, theirs) for outputs in (alone, got)]
        errors = [_errors(b.stage, it, _by_layer(expected, ours), views) for it in both]
        found.append(StageErrors(b.stage.name, *errors))
        own.update({name: got[name] for name in _OWN & got.keys()})
        ours.update(expected)
        theirs.update(got)
        for values, step in ((ours, a), (theirs, b)):
            for name in step.done:
                values.pop(name, None)
        on_progress(b.stage.name, 3, 3)
    return tuple(found), _scene(candidate, images, theirs), _scene(reference, images, ours)


def mixed_scene(
    reference: Side, candidate: Side, swapped: Collection[str], images: Images
) -> Scene:
    """Run the candidate with the stages `swapped`, by its names, from the reference."""
    views = len(images)
    controls = (reference.controls(views), candidate.controls(views))
    values: dict[str, Array] = {}
    for steps in zip(reference.steps, candidate.steps, strict=True):
        side = 0 if steps[1].stage.name in swapped else 1
        runner = (reference, candidate)[side]
        values.update(runner.run(steps[side], images, {**controls[side], **values}))
        for name in steps[side].done:
            values.pop(name, None)
    return _scene(candidate, images, {**controls[1], **values})


def suspects(stages: Sequence[StageErrors]) -> tuple[str, ...]:
    """Order the stages by their own error, the largest first, for a bisection."""
    largest = {
        errors.stage: max((error.rel_l2 for error in errors.alone), default=0.0)
        for errors in stages
    }
    return tuple(sorted(largest, key=lambda name: -largest[name]))


def _scene(side: Side, images: Images, values: Mapping[str, Array]) -> Scene:
    bundle = side.pipeline.bundle
    return decode(bundle, images, side.sparsity, {n: widen(v) for n, v in values.items()})


def _by_layer(outputs: Mapping[str, Array], values: Mapping[str, Array]) -> Mapping[str, Array]:
    """Return the outputs with the map of each layer (L, M, M), which every schedule has."""
    if PAIR_LEVELS not in outputs:
        return outputs
    return {**outputs, PAIR_LEVELS: outputs[PAIR_LEVELS][values[LAYER_MAP]]}


def _errors(
    stage: Stage, got: Mapping[str, Array], expected: Mapping[str, Array], views: int
) -> tuple[TensorError, ...]:
    return tuple(
        tensor_error(
            tensor.name,
            got[tensor.name],
            expected[tensor.name],
            views=views if tensor.shape and tensor.shape[0] in ("M", "N") else None,
        )
        for tensor in stage.outputs
        if tensor.name in expected
    )


def _typed(name: str, dtype: str, values: Mapping[str, Array]) -> Array:
    if name not in values:
        raise user_error(
            "is wanted by a graph of this bundle and written by no stage", where=f"input {name}",
            hint="export the bundle again",
        )  # fmt: skip
    typed: Array = np.asarray(values[name]).astype(numpy_dtype(dtype), copy=False)
    return typed
