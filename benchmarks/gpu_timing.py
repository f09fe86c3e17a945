"""Timing on a GPU: CUDA events, with the clocks of every number."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu_facts import clocks

Record = dict[str, Any]

FLUSH_BYTES = 256 << 20  # some four times the L2 cache of an H200
AHEAD_CYCLES = 1_000_000  # half a millisecond: longer than the host takes to queue a call


def measure(
    function: Callable[[], object],
    budget: float = 2.0,
    *,
    beside: Callable[[], object] | None = None,
) -> Record:
    """Return median and minimum in milliseconds of the runs that fit in about `budget` seconds.

    Each run starts with a cold L2 cache and a GPU that is still busy, so that the time between the
    events is the GPU's alone. Runs of `beside` alternate with those of `function` and share its
    clocks and temperature; their median is `beside_ms`.
    """
    functions = [function] if beside is None else [function, beside]
    for each in functions:
        each()
    scratch = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    times: list[list[float]] = [[] for _ in functions]
    started = time.monotonic()
    while len(times[0]) < 3 or (time.monotonic() - started < budget and len(times[0]) < 50):
        for each, found in zip(functions, times, strict=True):
            found.append(_once(each, scratch))
    record: Record = {
        "ms": statistics.median(times[0]),
        "ms_min": min(times[0]),
        "runs": len(times[0]),
        "clocks": clocks(),
    }
    if beside is not None:
        record["beside_ms"] = statistics.median(times[1])
    return record


def _once(function: Callable[[], object], scratch: torch.Tensor) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    scratch.zero_()
    torch.cuda._sleep(AHEAD_CYCLES)  # or the GPU would wait for the host between the events
    begin.record()
    function()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def kernel_times(function: Callable[[], object]) -> dict[str, float]:
    """Return milliseconds of each kernel that one call launches, by its short name."""
    from torch.profiler import ProfilerActivity, profile

    function()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as record:
        function()
        torch.cuda.synchronize()
    times: dict[str, float] = {}
    for event in record.key_averages():
        name = short_name(event.key)
        times[name] = times.get(name, 0.0) + event.self_device_time_total / 1e3
    return times


def short_name(kernel: str) -> str:
    """Return the plain name of a kernel.

    It is `quantize_cell` for `void covis::(anonymous namespace)::quantize_cell<__half, 64>(...)`.
    """
    head = kernel.replace("(anonymous namespace)::", "").split("(")[0].split("<")[0]
    return head.split("::")[-1].strip().split(" ")[-1]
