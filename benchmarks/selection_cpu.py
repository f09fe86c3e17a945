"""CPU time of choosing anchors, beside one dense global layer of the same run.

    python benchmarks/selection_cpu.py

FarthestFirst of libcovis_ort and its ONNX function body, on the similarities of 500 and 1,000
views, against one dense layer of BlockSparseAttention (16 heads, D = 64, 8 tokens a view: at 1,374
tokens, those of a photo of 518 x 518, the layer is 29,500 times as long and the choice the same).
One thread; rounds in which all of them alternate; medians of CPU seconds.

Writes benchmarks/results/selection_cpu.json and prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.attention_cpu import HEAD_SIZE, HEADS, covis_run
from tests.plugins.native import library as built
from tests.vectors.farthest_case import farthest_case
from tests.vectors.function_adapter import farthest_model

TOKENS = 8  # of a view
REPEATS = 20  # of a choice in a round
RESULTS = Path(__file__).resolve().parent / "results"
Run = Callable[[], object]


@dataclass
class Row:
    """One choice: CPU milliseconds, and their share of one dense layer of the same views."""

    views: int
    count: int
    first: str
    by: str
    ms: float
    layer_ms: float

    @property
    def share(self) -> float:
        return self.ms / self.layer_ms


def choice_run(library: str | None, feeds: dict[str, NDArray[Any]]) -> Run:
    """Return a call of FarthestFirst: of the library's kernel, or of the function body."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if library:
        options.register_custom_ops_library(library)
    model = farthest_model(with_body=library is None).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)


def layer_run(library: str, views: int) -> Run:
    """Return a call of one dense layer."""
    generator = np.random.default_rng(0)
    shape = (1, HEADS, views * TOKENS, HEAD_SIZE)
    feeds = {name: generator.standard_normal(shape, dtype=np.float32) for name in "QKV"}
    return covis_run(library, {**feeds, "level": np.full((1, 1, 1, 1), 2, np.int8)}, 1)


def seconds_of(run: Run, repeats: int) -> float:
    """Return the CPU seconds of a call, the mean of `repeats`."""
    start = time.process_time()
    for _ in range(repeats):
        run()
    return (time.process_time() - start) / repeats


def benchmark(library: str, views: int, counts: list[int], rounds: int) -> list[Row]:
    """Measure every choice for one number of views, in alternation with the layer."""
    choices: dict[tuple[int, str, str], Run] = {}
    for count in counts:
        for first, given in (("given", 0), ("chosen", -1)):
            case = farthest_case("views", views=views, kind="clusters", given=[given])
            feeds = {"similarity": case.similarity, "given": case.given, "count": np.array(count)}
            choices[count, first, "kernel"] = choice_run(library, feeds)
            choices[count, first, "function body"] = choice_run(None, feeds)
    layer, layers = layer_run(library, views), list[float]()
    times: dict[tuple[int, str, str], list[float]] = {key: [] for key in choices}
    for turn in range(rounds + 1):  # the first round is not counted
        found = seconds_of(layer, 1)
        if turn > 0:
            layers.append(found)
        for key, run in choices.items():
            found = seconds_of(run, REPEATS)
            if turn > 0:
                times[key].append(found)
    return [
        Row(views, *key, 1e3 * median(each), 1e3 * median(layers)) for key, each in times.items()
    ]


def table(rows: list[Row]) -> str:
    """Return the rows in Markdown."""
    lines = [
        "| views | anchors | first view | by | ms | of one dense layer |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.views} | {row.count} | {row.first} | {row.by} | {row.ms:.3f} | {row.share:.4%} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark; see the text of this module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--views", type=int, nargs="+", default=[500, 1000])
    parser.add_argument("--anchors", type=int, nargs="+", default=[25, 40])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--library", help="libcovis_ort; built from this checkout by default")
    parser.add_argument("--out", type=Path, default=RESULTS / "selection_cpu.json")
    options = parser.parse_args()
    library = options.library or str(built())
    rows = [
        row
        for views in options.views
        for row in benchmark(library, views, options.anchors, options.rounds)
    ]
    record = {
        "command": " ".join(["python", *sys.argv]),
        "machine": platform.processor() or platform.machine(),
        "onnxruntime": onnxruntime.__version__,
        "tokens_of_a_view": TOKENS,
        "rounds": options.rounds,
        "rows": [{**asdict(row), "share": row.share} for row in rows],
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
