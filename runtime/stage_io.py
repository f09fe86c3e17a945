"""Inputs and outputs of one stage: sliced by frames, run in chunks, checked for NaN."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.bundle.manifest import Stage, Tensor
from covis.engines.bundle.names import IMAGES, PROBE, TAU
from covis.engines.dtypes import numpy_dtype
from covis.engines.errors import numerics_error, user_error
from covis.runtime.flow import chunks, shape_of
from covis.runtime.memory.device_array import Value
from covis.runtime.memory.memory import CudaMemory, HostMemory
from covis.runtime.photos.images import Images

Array = NDArray[Any]
RunChunk = Callable[[int, dict[str, Any], dict[str, Any]], None]
"""Runs a chunk of so many frames: reads the inputs and writes the outputs, both by name."""

_HOST = HostMemory()


def run_in_chunks(
    stage: Stage,
    images: Images,
    values: Mapping[str, Value],
    outputs: Mapping[str, Value],
    run: RunChunk,
    *,
    length: int,
    least: int = 1,
    on_chunk: Callable[[int], None] = lambda done: None,
) -> None:
    """Run a stage on all frames, in chunks where its scope is `frames`.

    Args:
        stage: Stage to run.
        images: Photos of the scene.
        values: Every other value that the stage reads, by name.
        outputs: Arrays of the stage's outputs for all frames, written here.
        run: Runs one chunk.
        length: Largest number of frames of a chunk; ignored for a stage of the whole sequence.
        least: Smallest number of frames of a chunk.
        on_chunk: Called after each chunk with the number of frames done.
    """
    total = len(images)
    whole = stage.scope != "frames" or length >= total
    for first, last in chunks(total, total if whole else length, least):
        inputs = {t.name: stage_input(t, images, values, first, last) for t in stage.inputs}
        run(last - first, inputs, {n: a if whole else a[first:last] for n, a in outputs.items()})
        on_chunk(last)


def empty_outputs(
    stage: Stage,
    views: int,
    values: Mapping[str, Value],
    memory: Callable[[str], HostMemory | CudaMemory] = lambda name: _HOST,
) -> dict[str, Any]:
    """Allocate the outputs of a stage for all views, by name.

    Args:
        stage: Stage that will write them.
        views: Number of views, M.
        values: Values of the run; `probe` determines K, and `tau` R.
        memory: Returns the memory for an output; the host's by default.
    """
    sizes = {**symbol_lengths(values), "M": views, "N": views}
    return {
        t.name: memory(t.name).empty(shape_of(t, sizes), numpy_dtype(t.dtype))
        for t in stage.outputs
    }


def symbol_lengths(values: Mapping[str, Value]) -> dict[str, int]:
    """Return the values of the symbols that the control inputs determine: K and R."""
    return {"K": len(values[PROBE]), "R": len(values[TAU])}


def stage_input(
    tensor: Tensor, images: Images, values: Mapping[str, Value], first: int, last: int
) -> Value:
    """Return an input of a stage for the frames `first` to `last` (exclusive).

    Photos come in the tensor's own type, other values as they are.

    Raises:
        CovisError: The graph reads a value that this version does not provide.
    """
    if tensor.name == IMAGES:
        return images.batch(first, last).astype(numpy_dtype(tensor.dtype), copy=False)
    if tensor.name not in values:
        raise user_error(
            "is wanted by a graph of this bundle and unknown to this version of covis",
            where=f"input {tensor.name}",
            hint="update covis or export the bundle again",
        )
    value = values[tensor.name]
    return value[first:last] if tensor.shape[:1] == ("N",) else value


def widen(array: Array) -> Array:
    """Return half precision as float32, in which everything after the stages computes."""
    return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array


def check_finite(stage: Stage, name: str, array: Array, images: Images) -> None:
    """Reject an output of a stage that contains NaN or infinity.

    The sum is looked at first, because it needs no second array of the size. It may overflow where
    every number is finite, so only then all numbers are looked at.

    Raises:
        CovisError: Naming the stage, the output and, where frames are apart, the photo.
    """
    array = widen(array)
    if array.dtype.kind != "f":
        return
    with np.errstate(invalid="ignore"):  # both infinities in one sum
        if np.isfinite(array.sum(dtype=np.float64)):
            return
    bad = ~np.isfinite(array)
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
