"""How values flow through the stages of a run: what is kept on the device, and until when.

The pipeline allocates and frees by this, and the memory a run needs is reckoned from the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.bundle.manifest import Manifest, Stage, Tensor
from covis.engines.errors import numerics_error, user_error
from covis.engines.options import Sparsity
from covis.runtime.controls import stage_names
from covis.engines.dtypes import numpy_dtype
from covis.runtime.memory.device_array import Value
from covis.runtime.photos.images import Images

REPORTED = frozenset({"pair_level", "similarity", "probe"})
"""Values that the scene's report shows: never freed before the end."""


@dataclass(frozen=True)
class Step:
    """One stage of a run.

    Attributes:
        stage: to run.
        read_later: the outputs that a later stage reads; the others are results.
        done: the values that no later stage reads, to be freed after this one.
    """

    stage: Stage
    read_later: frozenset[str]
    done: frozenset[str]


def steps(manifest: Manifest, sparsity: Sparsity) -> tuple[Step, ...]:
    """The stages of a run, in order.

    Raises:
        CovisError: the bundle lacks the aggregator that the selector needs.
    """
    stages = [manifest.stage(name) for name in stage_names(manifest, sparsity)]
    found = []
    for index, stage in enumerate(stages):
        later = frozenset(t.name for s in stages[index + 1 :] for t in s.inputs)
        read = frozenset(t.name for t in stage.inputs)
        written = frozenset(t.name for t in stage.outputs)
        found.append(Step(stage, written & later, read - later - REPORTED))
    return tuple(found)


def shape_of(tensor: Tensor, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """A tensor's shape where its symbols have these values."""
    return tuple(sizes[n] if isinstance(n, str) else n for n in tensor.shape)


def nbytes(tensor: Tensor, sizes: Mapping[str, int]) -> int:
    """Bytes of a tensor where its symbols have these values."""
    return math.prod(shape_of(tensor, sizes)) * numpy_dtype(tensor.dtype).itemsize


def chunks(total: int, step: int, least: int = 1) -> Iterator[tuple[int, int]]:
    """(first, last) of the chunks that cover `total` frames, in order.

    A rest shorter than `least`, which a plan's profile may not allow, is widened to the left: some
    frames are then computed twice, with the same result.
    """
    for first in range(0, total, step):
        last = min(first + step, total)
        yield (max(min(first, last - least), 0), last)


def peak_bytes(
    run: tuple[Step, ...],
    views: int,
    chunk: int,
    probes: int,
    scratch: Callable[[Stage, dict[str, int]], int],
) -> int:
    """Device memory that a run of `views` needs at its highest, weights not counted.

    Args:
        run: from `steps`.
        views: M.
        chunk: frames of the stages that run in chunks; each such stage has buffers of its own.
        probes: K.
        scratch: bytes that a stage needs besides its inputs and outputs, by its symbols' values.
            This memory is shared by all stages and only grows.
    """
    whole = {"M": views, "N": views, "K": max(probes, 1)}
    buffers = shared = highest = 0
    for step, held in held_bytes(run, whole):
        stage, passing = step.stage, 0
        if stage.scope == "frames":
            for frames in {last - first for first, last in chunks(views, min(chunk, views))}:
                sizes = {**whole, "N": frames}
                buffers += sum(nbytes(t, sizes) for t in (*stage.inputs, *stage.outputs))
                shared = max(shared, scratch(stage, sizes))
        else:
            # Controls from the host, and results on their way there.
            made = {t.name for earlier in run for t in earlier.stage.outputs}
            passing = sum(nbytes(t, whole) for t in stage.inputs if t.name not in made)
            passing += sum(nbytes(t, whole) for t in stage.outputs if t.name not in step.read_later)
            shared = max(shared, scratch(stage, whole))
        highest = max(highest, held + buffers + passing + shared)
    return highest


def held_bytes(run: tuple[Step, ...], sizes: Mapping[str, int]) -> Iterator[tuple[Step, int]]:
    """With each stage the bytes of the values that are kept between stages while it runs."""
    held: dict[str, int] = {}
    for step in run:
        written = {t.name: nbytes(t, sizes) for t in step.stage.outputs}
        held.update({name: size for name, size in written.items() if name in step.read_later})
        yield step, sum(held.values())
        for name in step.done:
            held.pop(name, None)


def most_views(limit: int, needs: Callable[[int], int], budget: int) -> int:
    """The largest number of views, at most `limit`, whose need is within the budget; 0: none.

    `needs` must not fall with the number of views.
    """
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if needs(middle) <= budget:
            low = middle
        else:
            high = middle - 1
    return low


Array = NDArray[Any]


def stage_input(
    tensor: Tensor, images: Images, values: Mapping[str, Value], first: int, last: int
) -> Value:
    """What a stage reads of a tensor for the frames `first` to `last`, in the tensor's own type.

    Raises:
        CovisError: the graph wants what this version does not know.
    """
    if tensor.name == "images":
        return images.batch(first, last).astype(numpy_dtype(tensor.dtype), copy=False)
    if tensor.name not in values:
        raise user_error(
            "is wanted by a graph of this bundle and unknown to this version of covis",
            where=f"input {tensor.name}",
            hint="update covis or export the bundle again",
        )
    value = values[tensor.name]
    return value[first:last] if tensor.shape and tensor.shape[0] == "N" else value


def plain(array: Array) -> Array:
    """Half precision widened: what comes after the stages computes in float32 and float64."""
    return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array


def is_sound(array: Array) -> bool:
    """Whether all numbers are finite, or their sum overflows, which is looked into again."""
    array = plain(array)
    with np.errstate(invalid="ignore"):  # both infinities in one sum
        return array.dtype.kind != "f" or bool(np.isfinite(array.sum(dtype=np.float64)))


def refuse_non_finite(stage: Stage, name: str, array: Array, images: Images) -> None:
    """A sum overflows before its numbers do, so look again before refusing."""
    bad = ~np.isfinite(plain(array))
    if not bad.any():
        return
    where = f"stage {stage.name}, output {name}"
    if stage.scope == "frames":
        frame = int(np.flatnonzero(bad.reshape(len(images), -1).any(axis=1))[0])
        where += f", photo {images.names[frame]}"
    raise numerics_error(
        f"{int(bad.sum()):,} of {array.size:,} numbers are not finite",
        where=where,
        hint="check the weights (`covis inspect`), or export with --dtype float32",
    )
