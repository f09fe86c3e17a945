"""Estimate of `covis estimate` for each stage, and memory use of ONNX Runtime's CPU provider.

    python benchmarks/plan_cpu.py BUNDLE --views 100

Each stage runs once on random inputs, after a run at two views that reads the weights. The measured
value is the growth of the resident set to its high-water mark (Linux). It includes freed memory
that the C library keeps and scratch memory of kernels, which the estimate does not count.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from covis.engines.bundle.bundle import open_bundle
from covis.engines.bundle.manifest import Stage
from covis.engines.tensorrt.stage_memory import MemoryEstimate
from covis.evaluation.bench.measure import peak_bytes, reset_peak
from covis.runtime.backends.ort_session import Session, SessionOptions
from covis.runtime.memory.memory import HostMemory

PROBES = 8


def inputs(stage: Stage, views: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return a value for every input: a tenth of the frame pairs, one map for all layers."""
    rng = np.random.default_rng(0)
    values: dict[str, np.ndarray[Any, Any]] = {}
    for tensor in stage.inputs:
        shape = tuple(sizes(views).get(n, n) for n in tensor.shape)
        if tensor.name == "pair_levels":
            values[tensor.name] = np.where(rng.random(shape) < 0.1, 2, 0)
        elif tensor.name in ("probe", "patch_order"):
            values[tensor.name] = np.arange(shape[0])
        elif tensor.name == "layer_map":
            values[tensor.name] = np.zeros(shape)
        elif tensor.name == "anchor_order":
            values[tensor.name] = np.full(shape, -1)
        elif len(shape) > 1 and tensor.dtype == "float32":
            values[tensor.name] = rng.standard_normal(shape)
        else:
            values[tensor.name] = np.ones(shape)
        values[tensor.name] = values[tensor.name].astype(tensor.dtype)
    return values


def sizes(views: int) -> dict[Any, int]:
    """Return the symbols of a stage's shapes with their values."""
    return {"M": views, "N": views, "K": PROBES, "R": 1}


def grown(session: Session, stage: Stage, views: int) -> int:
    """Return the bytes that a run adds to the resident set at its highest."""
    given = inputs(stage, views)
    taken = {
        t.name: np.ones(tuple(sizes(views).get(n, n) for n in t.shape), t.dtype)
        for t in stage.outputs
    }
    memory = HostMemory()
    reset_peak(memory)
    before = peak_bytes(memory)
    session.run(given, taken)
    return peak_bytes(memory) - before


def main() -> None:
    """Parse the command line, run each stage, print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--views", type=int, default=100)
    parser.add_argument("--stages", nargs="*", help="default: all")
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    estimate = MemoryEstimate(bundle)
    print("| stage | planned MiB | measured MiB | planned / measured |\n|---|---|---|---|")
    for stage in bundle.manifest.stages:
        if options.stages and stage.name not in options.stages:
            continue
        session = Session(bundle.graph(stage), stage, SessionOptions(threads=1))
        grown(session, stage, 2)
        planned = estimate.stage(stage, sizes(options.views)).scratch / 2**20
        measured = grown(session, stage, options.views) / 2**20
        print(f"| {stage.name} | {planned:.1f} | {measured:.1f} | {planned / measured:.2f} |")


if __name__ == "__main__":
    main()
