"""What does not fit: a full GPU, views and chunks outside the profiles."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from covis.runtime.pipeline import load
from tests.gpu.engine_checks.place import CHUNK, VIEWS, Place, cut, pictures, refusal


def check_memory(place: Place) -> Any:
    """A full GPU: the largest number of views that fits is named, is right, and can be run then."""
    from cuda.bindings import driver

    pipeline = load(place.bundle, place.options())
    images = pictures(place.bundle)
    expected = pipeline(images)
    pipeline.backend.release()
    memory = pipeline.backend.memory
    held: list[Any] = []
    size, said = memory.free() - (128 << 20), ""  # type: ignore[operator]
    while not said:
        status, pointer = driver.cuMemAlloc(size)
        assert int(status) == 0, "the GPU was filled, and the run still went on"
        held.append(pointer)
        size = 2 << 20
        try:
            pipeline(images)
        except Exception as error:
            said = str(error)
    assert "out of memory" in said, said
    found = re.search(r"use at most (\d+) views", said)
    if found:
        most = int(found.group(1))
        assert 0 < most < VIEWS
        pipeline(cut(images, most))
        with refusal(3, "out of memory"):
            pipeline(cut(images, most + 1))
    for pointer in held:
        driver.cuMemFree(pointer)
    again = pipeline(images)
    assert np.array_equal(again.depth, expected.depth)
    return said


def check_profiles(place: Place) -> Any:
    """Views outside the profile are refused with the nearest; chunks are fitted to theirs."""
    pipeline = load(place.bundle, replace(place.options(), chunk=64))
    expected = load(place.bundle, place.options())(pictures(place.bundle))
    assert np.array_equal(pipeline(pictures(place.bundle)).depth, expected.depth)
    assert any(f"takes {CHUNK} frames at once" in note for note in pipeline.notes)
    with refusal(2, "outside the profile"):
        pipeline(pictures(place.bundle, VIEWS + 20))
    return "refused"
