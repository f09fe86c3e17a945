"""Timing on a GPU: CUDA events, and the clocks beside every number."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch

Record = dict[str, Any]


def nvidia_smi(query: str) -> str:
    """One line of nvidia-smi; empty where it is absent."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def clocks() -> str:
    """SM clock, memory clock, power and temperature now."""
    return nvidia_smi("clocks.sm,clocks.mem,power.draw,temperature.gpu")


def measure(function: Callable[[], object], budget: float = 2.0) -> Record:
    """Median and minimum in milliseconds of the runs that fit in about `budget` seconds."""
    function()
    torch.cuda.synchronize()
    times: list[float] = []
    started = time.monotonic()
    while len(times) < 3 or (time.monotonic() - started < budget and len(times) < 50):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return {
        "ms": statistics.median(times),
        "ms_min": min(times),
        "runs": len(times),
        "clocks": clocks(),
    }


def kernel_times(function: Callable[[], object]) -> dict[str, float]:
    """Milliseconds of each kernel that one call launches, by its short name."""
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
    """`quantize_cell` of `void covis::(anonymous namespace)::quantize_cell<__half, 64>(...)`."""
    head = kernel.replace("(anonymous namespace)::", "").split("(")[0].split("<")[0]
    return head.split("::")[-1].strip().split(" ")[-1]
