"""Time a pipeline: several settings in turns, stage by stage."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.bundle.pixel_rule import PixelRule
from covis.engines.errors import user_error
from covis.engines.options import Sparsity
from covis.evaluation.bench.record import Samples
from covis.runtime.memory.clocks import Clock, CudaClock, HostClock
from covis.runtime.memory.memory import CudaMemory
from covis.runtime.photos.images import Images, load_images
from covis.runtime.pipeline import Pipeline


@dataclass(frozen=True)
class Setting:
    """Setting to time.

    Attributes:
        sparsity: Selector options, with a selector other than `auto`.
        pair_levels: Maps of view pairs (R, M, M) to use instead of those of the saliency stage.
    """

    sparsity: Sparsity
    pair_levels: NDArray[np.int8] | None = None


@dataclass(frozen=True)
class Schedule:
    """Number and duration of the runs, with the names of trtexec's options.

    Attributes:
        warm_up: Milliseconds of runs that are not counted; at least two runs of each setting.
        iterations: Smallest number of counted runs of each setting.
        duration: Smallest duration of all counted runs, in seconds.
    """

    warm_up: float = 200.0
    iterations: int = 10
    duration: float = 3.0

    def __post_init__(self) -> None:
        for name, least in (("warm_up", 0), ("iterations", 1), ("duration", 0)):
            where = {"warm_up": "--warmUp"}.get(name, f"--{name}")
            if not getattr(self, name) >= least:
                raise user_error(f"{getattr(self, name)} is below {least}", where=where)
            if getattr(self, name) == math.inf:
                raise user_error("would never end", where=where, hint="give a number")


def measure(
    pipeline: Pipeline,
    images: Images,
    settings: Mapping[str, Setting],
    schedule: Schedule,
    on_run: Callable[[str, int], None] = lambda name, run: None,
) -> dict[str, Samples]:
    """Run the settings in turns and time every stage.

    On a GPU a stage's time is between two events of its stream, uploads and downloads that belong
    to it included; on the CPU it is wall time. `whole` is always wall time of the host.

    Args:
        pipeline: Bundle and backend.
        images: Decoded photos of the scene.
        settings: Settings by name. Each round runs each of them once, in alternating order (A B, B
            A, ...), so that all see the same load of the machine.
        schedule: Number and duration of the runs.
        on_run: Called with the setting's name and the number of the run before each counted run.

    Raises:
        CovisError: A run fails.
    """
    start = time.monotonic()
    rounds = 0
    while rounds < 2 or (time.monotonic() - start) * 1000 < schedule.warm_up:
        for setting in settings.values():
            _run(pipeline, images, setting, None)
        rounds += 1
    samples = {name: Samples() for name in settings}
    start, rounds = time.monotonic(), 0
    while rounds < schedule.iterations or time.monotonic() - start < schedule.duration:
        turns = list(settings.items())
        for name, setting in turns if rounds % 2 == 0 else reversed(turns):
            on_run(name, rounds + 1)
            _run(pipeline, images, setting, samples[name])
        rounds += 1
    return samples


def _run(pipeline: Pipeline, images: Images, setting: Setting, samples: Samples | None) -> None:
    memory = pipeline.backend.memory
    clock: Clock = CudaClock(memory) if isinstance(memory, CudaMemory) else HostClock()
    begin: dict[str, Any] = {}
    end: dict[str, Any] = {}
    highest: dict[str, int] = {}

    def mark(stage: str, done: int, total: int) -> None:
        if done == 0:
            reset_peak(memory)
            begin[stage] = clock.mark()
        elif done == total:
            end[stage] = clock.mark()
            highest[stage] = peak_bytes(memory)

    started = time.perf_counter()
    pipeline.run_stages(images, setting.sparsity, mark, setting.pair_levels)
    whole = (time.perf_counter() - started) * 1000
    if samples is None:
        return
    samples.whole.append(whole)
    for stage, mark in begin.items():
        samples.add(stage, clock.between(mark, end[stage]), highest[stage])


def reset_peak(memory: Any) -> None:
    """Reset the peak memory, where the system allows it."""
    if isinstance(memory, CudaMemory):
        memory.reset_high()
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(memory: Any) -> int:
    """Return the peak since the reset: of the GPU pool, or of resident memory (Linux)."""
    if isinstance(memory, CudaMemory):
        return memory.used()[1]
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0


def random_images(views: int, rule: PixelRule, seed: int = 0) -> Images:
    """Create random pictures in blocks of 8 pixels, of about the bundle's size."""
    random = np.random.default_rng(seed)
    rows, columns = -(-rule.height // 8), -(-rule.width // 8)
    photos = [
        random.integers(0, 256, (rows, columns, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        for _ in range(views)
    ]
    return load_images(photos, rule)
