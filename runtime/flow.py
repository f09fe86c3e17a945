"""Schedule of a run: the stages in order, the lifetime of their values, and its peak memory.

The pipeline allocates and frees by this schedule, and the memory that a run needs is computed from
the same one, so the two cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from covis.engines.bundle.manifest import Manifest, Stage, Tensor
from covis.engines.bundle.names import (
    AGGREGATOR,
    AGGREGATOR_POOLED,
    ANCHOR_RANK,
    LAYER_MAP,
    PAIR_LEVELS,
    PROBE,
    SIMILARITY,
    TAU,
)
from covis.engines.dtypes import numpy_dtype
from covis.engines.errors import user_error
from covis.engines.options import Sparsity
from covis.engines.schedule import is_pooled

REPORTED = frozenset({PAIR_LEVELS, LAYER_MAP, ANCHOR_RANK, SIMILARITY, PROBE, TAU})
"""Values that the scene reports, or that give symbols their length; never freed before the end."""


@dataclass(frozen=True)
class Step:
    """One stage of a run.

    Attributes:
        stage: Stage to run.
        read_later: Names of the outputs that a later stage reads; the other outputs are results.
        done: Names of the values that no later stage reads, to be freed after this stage.
    """

    stage: Stage
    read_later: frozenset[str]
    done: frozenset[str]


def steps(manifest: Manifest, sparsity: Sparsity) -> tuple[Step, ...]:
    """List the stages of a run in order, with the lifetime of their values.

    Raises:
        CovisError: The bundle lacks the aggregator that the selector needs.
    """
    stages = [manifest.stage(name) for name in stage_names(manifest, sparsity)]
    found = []
    for index, stage in enumerate(stages):
        later = frozenset(t.name for s in stages[index + 1 :] for t in s.inputs)
        read = frozenset(t.name for t in stage.inputs)
        written = frozenset(t.name for t in stage.outputs)
        found.append(Step(stage, written & later, read - later - REPORTED))
    return tuple(found)


def stage_names(manifest: Manifest, sparsity: Sparsity) -> tuple[str, ...]:
    """List the names of a run's stages in order: one of the two aggregators, and all others.

    Raises:
        CovisError: The bundle lacks the aggregator that the selector needs.
    """
    pooled = is_pooled(sparsity, manifest.model.global_layers)
    unused = AGGREGATOR if pooled else AGGREGATOR_POOLED
    names = tuple(stage.name for stage in manifest.stages if stage.name != unused)
    if not {AGGREGATOR, AGGREGATOR_POOLED} & set(names):
        raise user_error(
            f"{sparsity.selector!r} needs an aggregator that this bundle does not hold",
            where="--selector",
            hint="choose another selector or export the bundle again",
        )
    return names


def chunks(total: int, length: int, least: int = 1) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of the chunks of at most `length` that cover `total` frames, in order.

    A remainder shorter than `least`, which a plan's profile may not allow, is widened to the left:
    some frames are then computed twice, with the same result.
    """
    for first in range(0, total, length):
        last = min(first + length, total)
        yield (max(min(first, last - least), 0), last)


def shape_of(tensor: Tensor, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return a tensor's shape, its symbols replaced by `sizes`."""
    return tuple(sizes[n] if isinstance(n, str) else n for n in tensor.shape)


def nbytes(tensor: Tensor, sizes: Mapping[str, int]) -> int:
    """Return a tensor's size in bytes, its symbols replaced by `sizes`."""
    return math.prod(shape_of(tensor, sizes)) * numpy_dtype(tensor.dtype).itemsize


def live_bytes(run: tuple[Step, ...], sizes: Mapping[str, int]) -> Iterator[tuple[Step, int]]:
    """Yield each step with the bytes of the values that are alive between stages while it runs."""
    live: dict[str, int] = {}
    for step in run:
        written = {t.name: nbytes(t, sizes) for t in step.stage.outputs}
        live.update({name: size for name, size in written.items() if name in step.read_later})
        yield step, sum(live.values())
        for name in step.done:
            live.pop(name, None)


def peak_bytes(
    run: tuple[Step, ...],
    views: int,
    chunk: int,
    lengths: Mapping[str, int],
    scratch: Callable[[Stage, dict[str, int]], int],
) -> int:
    """Return the peak device memory of a run in bytes, weights not counted.

    Args:
        run: The run, from `steps`.
        views: Number of views, M.
        chunk: Frames of a chunk, N, in the stages that run in chunks. Each such stage has buffers
            of its own for each length of chunk.
        lengths: Values of the symbols that do not follow from the number of views: sampled
            queries, K, and maps of view pairs, R.
        scratch: Returns the bytes that a stage needs besides its inputs and outputs, from the
            values of its symbols. All stages share this memory, which only grows.
    """
    whole = {**lengths, "M": views, "N": views}
    outputs = {t.name for step in run for t in step.stage.outputs}
    buffers = shared = peak = 0
    for step, live in live_bytes(run, whole):
        stage, transfers = step.stage, 0
        if stage.scope == "frames":
            for frames in {last - first for first, last in chunks(views, min(chunk, views))}:
                sizes = {**whole, "N": frames}
                buffers += sum(nbytes(t, sizes) for t in (*stage.inputs, *stage.outputs))
                shared = max(shared, scratch(stage, sizes))
        else:
            # Control inputs come from the host, and results are on their way to it.
            controls = (t for t in stage.inputs if t.name not in outputs)
            results = (t for t in stage.outputs if t.name not in step.read_later)
            transfers = sum(nbytes(t, whole) for t in (*controls, *results))
            shared = max(shared, scratch(stage, whole))
        peak = max(peak, live + buffers + transfers + shared)
    return peak
