"""Seconds and peak memory of each stage of a bundle on this machine's CPU.

    python benchmarks/stages_cpu.py BUNDLE PHOTOS --views 4 [--no-kernel] [--out FILE.json]

Memory is the high-water mark of the process's resident set, memory-mapped weights included. It is
reset when a stage begins (Linux).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import onnxruntime

from covis.engines.options import RunOptions
from covis.evaluation.bench.settings import named_setting
from covis.runtime.photos.find import find
from covis.runtime.pipeline import load


class Meter:
    """A progress callback that ends the measurement of a stage when the next one begins."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float | str]] = []
        self._stage = "load"
        self._start = time.perf_counter()
        self._reset()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self.close()
            self._stage = stage
            self._start = time.perf_counter()
            self._reset()

    def close(self) -> None:
        """Record the stage that is running."""
        seconds = time.perf_counter() - self._start
        self.rows.append({"stage": self._stage, "seconds": seconds, "peak_gib": peak_gib()})

    def _reset(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")


def peak_gib() -> float:
    """Return the high-water mark of the resident set since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 2**20
    return 0.0


def main() -> None:
    """Parse the command line, run, print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--chunk", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--selector", default="dense", help="or another setting, see covis bench")
    parser.add_argument("--no-kernel", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    photos = find(arguments.photos).photos
    photos = (photos * -(-arguments.views // len(photos)))[: arguments.views]
    meter = Meter()
    options = RunOptions(arguments.chunk, arguments.threads, not arguments.no_kernel)
    pipeline = load(arguments.bundle, options)
    sparsity = named_setting(arguments.selector, pipeline.bundle.manifest.sparsity)
    pipeline(photos, sparsity=sparsity, progress=meter)
    meter.close()
    weights = pipeline.bundle.weights.size / 2**30
    print(f"weights {weights:.2f} GiB, {arguments.views} views, kernel {not arguments.no_kernel}")
    print("| stage | seconds | peak GiB |\n|---|---|---|")
    for row in meter.rows:
        print(f"| {row['stage']} | {row['seconds']:.1f} | {row['peak_gib']:.2f} |")
    total = sum(float(row["seconds"]) for row in meter.rows)
    highest = max(float(row["peak_gib"]) for row in meter.rows)
    print(f"| all | {total:.1f} | {highest:.2f} |")
    if arguments.out:
        record = {
            "views": arguments.views,
            "kernel": not arguments.no_kernel,
            "selector": arguments.selector,
            "weights_gib": weights,
            "onnxruntime": onnxruntime.__version__,
            "machine": platform.machine(),
            "stages": meter.rows,
        }
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
