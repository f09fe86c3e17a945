"""Records of a benchmark for JSON: latencies with percentiles, throughput, memory, ratios."""

from __future__ import annotations

import math
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from covis.engines.bundle.names import role


@dataclass(frozen=True)
class Latency:
    """Latency in milliseconds over a number of runs.

    Attributes:
        runs: Number of runs.
        min: Time of the fastest run.
        max: Time of the slowest run.
        mean: Mean time.
        median: Median time.
        percentiles: Smallest time that so many percent of the runs do not exceed, by percentage,
            e.g. {"99": ...}.
    """

    runs: int
    min: float
    max: float
    mean: float
    median: float
    percentiles: dict[str, float]


def latency(samples: Sequence[float], percentiles: Sequence[float]) -> Latency:
    """Summarise one or more times in milliseconds."""
    ordered = sorted(samples)
    count = len(ordered)
    middle = ordered[(count - 1) // 2], ordered[count // 2]
    found = {f"{p:g}": ordered[max(math.ceil(p / 100 * count), 1) - 1] for p in percentiles}
    return Latency(count, ordered[0], ordered[-1], sum(ordered) / count, sum(middle) / 2, found)


def averages(samples: Sequence[float], runs: int) -> list[float]:
    """Average each `runs` consecutive times, like trtexec's --avgRuns; a remainder is left out."""
    return [
        sum(samples[i : i + runs]) / runs
        for i in range(0, len(samples) - len(samples) % runs, runs)
    ]


@dataclass
class Samples:
    """Times and memory of one setting.

    Attributes:
        stages: Milliseconds of each run, by stage, in the order of the run.
        whole: Milliseconds of each run, from photos in memory to results on the host.
        memory: Peak memory in bytes while a stage ran, by stage.
    """

    stages: dict[str, list[float]] = field(default_factory=dict)
    whole: list[float] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)

    def add(self, stage: str, milliseconds: float, memory: int) -> None:
        """Add a run of a stage."""
        self.stages.setdefault(stage, []).append(milliseconds)
        self.memory[stage] = max(self.memory.get(stage, 0), memory)


def setting_record(
    samples: Samples, views: int, percentiles: Sequence[float], avg_runs: int
) -> dict[str, Any]:
    """Return one setting for JSON."""
    whole = latency(samples.whole, percentiles)
    return {
        "latency_ms": asdict(whole),
        "averages_ms": averages(samples.whole, avg_runs),
        "views_per_second": 1000.0 * views / whole.mean,
        "scenes_per_second": 1000.0 / whole.mean,
        "stages": {
            name: {
                "latency_ms": asdict(latency(times, percentiles)),
                "memory_bytes": samples.memory[name],
            }
            for name, times in samples.stages.items()
        },
    }


def ratios(settings: Mapping[str, Samples], base: str) -> dict[str, dict[str, float]]:
    """Return the speed-up of each other setting over `base`: by stage, and as a whole.

    The ratio of medians over runs that took turns, so that a slower machine slows both. The two
    aggregators count as the same stage.
    """
    found: dict[str, dict[str, float]] = {}
    for name, samples in settings.items():
        if name == base:
            continue
        by_stage = {role(stage): times for stage, times in settings[base].stages.items()}
        found[name] = {
            stage: _median(by_stage[role(stage)]) / _median(times)
            for stage, times in samples.stages.items()
            if role(stage) in by_stage
        }
        found[name]["whole"] = _median(settings[base].whole) / _median(samples.whole)
    return found


def machine() -> dict[str, Any]:
    """Describe processor, Python, commit and time, which every record contains."""
    return {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "commit": _commit(Path(__file__).resolve().parents[2]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _commit(root: Path) -> str:
    """Return the checkout's commit; "unknown" outside of one, and where git is not installed."""
    if not (root / ".git").exists():
        return "unknown"
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _median(samples: Sequence[float]) -> float:
    return latency(samples, ()).median
