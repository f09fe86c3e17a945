"""Error of the places that a pose graph of parts recovers, with outliers among its edges.

    python benchmarks/joining.py

100 parts of known Sim(3) on a circle that is passed three times: a chain of 99 edges, and loop
edges between parts that lie near each other. Every edge has noise of 1 % of the distance, 0.57
degrees (0.01 radian) and 1 % of scale; outliers are any other similarity and as sure of themselves
as the rest. Shifts are in radii of the points that two parts share, which is also the distance of
neighbouring parts.

A part that hangs on a single right edge cannot be told from one that hangs on an outlier, so the
errors are given of the parts that no such edge separates from the rest ("confirmable"), and the
others are counted. Ten random graphs a row; medians and maxima over all their parts.

Writes benchmarks/results/joining.json and prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from numpy.typing import NDArray

from covis.runtime.collection.pose_edges import components, measured
from covis.runtime.collection.pose_graph import place
from tests.runtime.collection.pose_graphs import KnownGraph, known_graph, place_errors

RESULTS = Path(__file__).resolve().parent / "results"
SIGMA = 0.01
FAR = 0.5  # radii: parts overlap no longer as they should


@dataclass
class Row:
    """Errors of one kind of graph, over all its graphs."""

    parts: int
    edges: int
    outliers: float
    graphs: int
    confirmable: float
    shift_median: float
    shift_max: float
    rotation_median: float
    rotation_max: float
    scale_median: float
    scale_max: float
    misplaced: float
    misplaced_confirmable: int
    outliers_kept: float
    right_dropped: float
    seconds: float


def confirmable(graph: KnownGraph) -> NDArray[np.bool_]:
    """Return the parts (P,) of the largest group that stays whole without any one right edge."""
    edges = measured(len(graph.places), graph.edges)
    right = ~graph.wrong
    whole = components(edges, right).max()
    solid = right.copy()
    for edge in np.flatnonzero(right):
        without = right.copy()
        without[edge] = False
        solid[edge] = components(edges, without).max() == whole
    groups = components(edges, solid)
    found: NDArray[np.bool_] = groups == np.bincount(groups).argmax()
    return found


def measure(parts: int, loops: int, outliers: float, graphs: int) -> Row:
    """Place the parts of several random graphs, and collect the errors."""
    columns: list[list[float]] = []
    shifts, turns, scales = [], [], []
    for seed in range(graphs):
        graph = known_graph(parts, loops, outliers, SIGMA, seed)
        start = time.process_time()
        found = place(parts, graph.edges)
        seconds = time.process_time() - start
        errors, solid = place_errors(found.similarities, graph.places), confirmable(graph)
        far = errors.shift > FAR
        shifts.append(errors.shift[solid])
        turns.append(errors.rotation_deg[solid])
        scales.append(errors.log_scale[solid])
        columns.append([
            len(graph.edges), solid.sum(), far.sum(), (far & solid).sum(),
            (graph.wrong & ~found.dropped).sum(), (~graph.wrong & found.dropped).sum(), seconds,
        ])  # fmt: skip
    edges, firm, far_all, far_firm, kept, dropped, seconds = np.array(columns, float).mean(axis=0)
    shift, turn, scale = (np.concatenate(values) for values in (shifts, turns, scales))
    return Row(
        parts, int(edges), outliers, graphs, float(firm),
        float(np.median(shift)), float(shift.max()), float(np.median(turn)), float(turn.max()),
        float(np.median(scale)), float(scale.max()), float(far_all), round(far_firm * graphs),
        float(kept), float(dropped), float(seconds),
    )  # fmt: skip


def main() -> None:
    """Measure; see the text of this module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--parts", type=int, default=100)
    parser.add_argument("--loops", type=int, nargs="+", default=[150, 300])
    parser.add_argument("--outliers", type=float, nargs="+", default=[0.0, 0.2])
    parser.add_argument("--graphs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS / "joining.json")
    options = parser.parse_args()
    print("| edges | outliers | confirmable parts | shift, median / max | degrees, median / max "
          "| scale, median / max | misplaced, of them confirmable | outliers kept "
          "| right edges dropped | CPU seconds |")  # fmt: skip
    print("|" + "---|" * 10)
    rows = []
    for loops in options.loops:
        for outliers in options.outliers:
            row = measure(options.parts, loops, outliers, options.graphs)
            rows.append(row)
            print(
                f"| {row.edges} | {outliers:.0%} | {row.confirmable:.1f} of {row.parts} "
                f"| {row.shift_median:.3f} / {row.shift_max:.3f} "
                f"| {row.rotation_median:.2f} / {row.rotation_max:.2f} "
                f"| {row.scale_median:.2%} / {row.scale_max:.2%} "
                f"| {row.misplaced:.1f}, {row.misplaced_confirmable / row.graphs:.1f} "
                f"| {row.outliers_kept:.1f} | {row.right_dropped:.1f} | {row.seconds:.2f} |",
                flush=True,
            )
    record = {
        "command": " ".join(["python", *sys.argv]),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "sigma": SIGMA,
        "rows": [asdict(row) for row in rows],
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
