"""compute-sanitizer over a few launches of every kernel, and over a fault that it must see."""

from __future__ import annotations

import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from tests.gpu.sitting import LEAST_SECONDS, ROOT, Ended, Sitting, Status

Tool = Literal["memcheck", "racecheck"]
WHEEL = ROOT / ".venv/cuda/nvidia/cu13/compute-sanitizer/compute-sanitizer"  # make plugins


def find_sanitizer() -> Path | None:
    """compute-sanitizer: on the path, or where `make plugins` put it."""
    found = shutil.which("compute-sanitizer")
    return Path(found) if found else WHEEL if WHEEL.is_file() else None


def sanitize(sitting: Sitting, tool: Tool, library: Path, seconds: float) -> None:
    """Put a tool's verdict on record: absent, or its small launches and (memcheck) the fault.

    A clean report counts only if kernels of ours were seen, and memcheck's only if it reports a
    read behind a level map that is made for it.
    """
    program = find_sanitizer()
    if program is None:
        sitting.add(tool, "absent", 0.0, "compute-sanitizer is not installed")
        return
    started, seconds = time.monotonic(), min(seconds, sitting.left())
    if seconds < LEAST_SECONDS:
        sitting.add(tool, "not run", 0.0, "no time was left")
        return
    command = [str(program), "--tool", tool, "--error-exitcode", "9", "--print-level", "info"]
    if tool == "memcheck":
        command += ["--leak-check", "no"]
    command += [sys.executable, "-m", "tests.gpu.small", str(library)]
    # Without torch's caching each tensor is an allocation, whose bounds the sanitizer knows.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    ways = {"launches": list[str]()} | ({"fault": ["--fault"]} if tool == "memcheck" else {})

    def run(name: str) -> Ended:
        return sitting.process(f"{tool} {name}", [*command, *ways[name]], seconds, environment)

    # Side by side: under the tool it takes each of them long to begin.
    with ThreadPoolExecutor() as pool:
        runs = dict(zip(ways, pool.map(run, ways), strict=True))
    status, detail = judged(tool, runs)
    sitting.add(tool, status, time.monotonic() - started, detail)


def judged(tool: Tool, runs: dict[str, Ended]) -> tuple[Status, dict[str, object]]:
    """What the runs of a tool amount to, by their exit codes and reports."""
    main, fault = runs["launches"], runs.get("fault")
    fault_seen = (
        None if fault is None else fault.code not in (0, None) and "measure_rows" in fault.output
    )
    launches = main.output.count("launched ")
    detail: dict[str, object] = {
        "fault_seen": fault_seen,
        "launches": launches,
        "code": main.code,
        "tail": main.output[-2000:],
    }
    if main.code is None or (fault is not None and fault.code is None):
        return "stopped", detail
    clean = "ERROR SUMMARY: 0 errors" in main.output or "0 hazards" in main.output
    good = main.code == 0 and launches > 0 and clean and (tool != "memcheck" or fault_seen is True)
    return "passed" if good else "failed", detail
