"""A whole aggregator on the CPU: dense against schedules, Amdahl's bound, cost of the selection.

    python benchmarks/aggregator_cpu.py BUNDLE --views 48 --rounds 1 --out FILE.json

The settings alternate in one process, on one thread. Times are CPU seconds, which a busy machine
disturbs least; only ratios are meaningful. The bound uses the share of global attention in ONNX
Runtime's profile of the dense run: if skipped pairs cost nothing, a run would take the dense time
minus the share of each layer's attention that its map skips. Shares count elements: special tokens
stay dense, so they are above the shares of pairs. The maps come from the saliency stage on random
patch tokens; its profile gives the time of the choice of anchors and pairs, without the descriptors
before it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from covis.engines.bundle.bundle import Bundle, open_bundle
from covis.engines.bundle.manifest import Stage
from covis.engines.options import Sparsity
from covis.engines.regime import format_schedule
from covis.engines.schedule import layer_regimes, resolve
from covis.engines.system.native import ORT_LIBRARY, find_library, instruction_set
from covis.evaluation.bench.settings import named_setting
from covis.runtime.controls import control_inputs

DENSE = "dense"
SALIENCY_RUNS = 5
SETTINGS = ("anchors=10", "anchors=25", "anchors=40")
Array = NDArray[Any]
Event = dict[str, Any]


def open_session(bundle: Bundle, stage: Stage, threads: int, profile: Path | None = None) -> Any:
    """Open a stage as the runtime does, with its kernels, and a prefix of profiles to write."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.disable_prepacking", "1")
    library = find_library(ORT_LIBRARY)
    assert library is not None, "build the CPU kernel first"
    options.register_custom_ops_library(str(library))
    if profile is not None:
        options.enable_profiling = True
        if stage.name == "saliency":  # fused nodes would lose the names of the graph's
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.profile_file_prefix = str(profile)
    return ort.InferenceSession(str(bundle.graph(stage).path), options)


def kernel_events(session: Any) -> list[Event]:
    """Return the kernel calls of a session's profile, in order."""
    events = json.loads(Path(session.end_profiling()).read_text())
    return [event for event in events if event["name"].endswith("_kernel_time")]


def attention_share(events: Sequence[Event], layers: int) -> float:
    """Return the share of global attention: frame and global layers alternate in VGGT.

    A profile has times of the wall, which a busy machine stretches for all nodes alike.
    """
    calls = [e["dur"] for e in events if e["args"]["op_name"] == "BlockSparseAttention"]
    found = calls[1::2] if len(calls) == 2 * layers else calls
    return float(sum(found) / sum(event["dur"] for event in events))


def selection_seconds(events: Sequence[Event], graph: onnx.GraphProto) -> float:
    """Return the seconds of the saliency stage's nodes that do not lead to the similarity.

    Of several runs the shortest counts, node by node.
    """
    producer = {name: node for node in graph.node for name in node.output}
    descriptors: set[str] = set()
    pending = [producer["similarity"]]
    while pending:
        node = pending.pop()
        if node.name not in descriptors:
            descriptors.add(node.name)
            pending += [producer[name] for name in node.input if name in producer]
    names = {node.name for node in graph.node} - descriptors
    seconds: dict[str, float] = {}
    for event in events:
        name = event["name"].removesuffix("_kernel_time")
        seconds[name] = min(seconds.get(name, np.inf), event["dur"] / 1e6)
    return sum(time for name, time in seconds.items() if name in names)


@dataclass(frozen=True)
class Case:
    """One setting to time.

    Attributes:
        sparsity: Selector options.
        feeds: Inputs of the aggregator.
        pairs: Share of the view pairs that each global layer computes, (L,).
        selection: Seconds in which the saliency stage chooses anchors and pairs.
    """

    sparsity: Sparsity
    feeds: dict[str, Array]
    pairs: Array
    selection: float


def prepare(bundle: Bundle, sparsity: Sparsity, tokens: Array, threads: int, scratch: Path) -> Case:
    """Run the saliency stage, and return the inputs of the aggregator."""
    manifest = bundle.manifest
    stage, aggregator = manifest.stage("saliency"), manifest.stage("aggregator")
    controls: Mapping[str, Array] = control_inputs(manifest, sparsity, len(tokens), 1)
    values = {**controls, "patch_tokens": tokens}
    session = open_session(bundle, stage, threads, scratch / "saliency")
    names = [tensor.name for tensor in stage.outputs]
    feeds = {tensor.name: values[tensor.name] for tensor in stage.inputs}
    for _ in range(SALIENCY_RUNS):
        outputs = session.run(names, feeds)
    values |= dict(zip(names, outputs, strict=True))
    graph = bundle.graph(stage).model().graph
    chosen = selection_seconds(kernel_events(session), graph)
    kept = (values["pair_levels"] > 0).mean(axis=(1, 2))
    feeds = {tensor.name: values[tensor.name] for tensor in aggregator.inputs}
    return Case(sparsity, feeds, kept[values["layer_map"]], chosen)


def bound(share: float, elements: Array) -> float:
    """Return Amdahl's bound of the speed-up.

    Args:
        share: Share of global attention in the dense run; all layers take the same.
        elements: Share of the elements of attention that each layer computes, (L,).
    """
    return float(1 / (1 - share * (1 - elements.mean())))


def measure(bundle: Bundle, words: Sequence[str], views: int, rounds: int, threads: int) -> Event:
    """Return the record of all settings, dense first."""
    manifest = bundle.manifest
    model, patches = manifest.model, manifest.patches
    stage = manifest.stage("aggregator")
    channels = next(t.shape[-1] for t in stage.inputs if t.name == "patch_tokens")
    shape = (views, patches, int(channels))
    tokens = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        cases = {
            word: prepare(
                bundle, resolve(named_setting(word, Sparsity()), views), tokens, threads, scratch
            )
            for word in (DENSE, *words)
        }
        session = open_session(bundle, stage, threads, scratch / "aggregator")
        session.run(None, cases[DENSE].feeds)  # not counted: it reads the weights and is profiled
        share = attention_share(kernel_events(session), model.global_layers)
        session = open_session(bundle, stage, threads)
        for turn in range(rounds):
            order = list(cases.items())
            for name, case in order if turn % 2 == 0 else reversed(order):
                start = time.process_time()
                session.run(None, case.feeds)
                seconds.setdefault(name, []).append(time.process_time() - start)
                print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
    special = model.special_first + model.special_last
    patch_share = (patches / (patches + special)) ** 2
    dense = statistics.median(seconds[DENSE])
    rows = []
    for name, case in cases.items():
        elements = 1 - patch_share * (1 - case.pairs)
        limit = bound(share, elements)
        speedup = dense / statistics.median(seconds[name])
        regimes = layer_regimes(case.sparsity, model.global_layers)
        rows.append(
            {
                "setting": name,
                "schedule": format_schedule(regimes),
                "pairs": float(case.pairs.mean()),
                "elements": float(elements.mean()),
                "seconds": seconds[name],
                "speedup": speedup,
                "bound": limit,
                "of_bound": speedup / limit,
                "selection_of_dense": case.selection / dense,
            }
        )
    return {
        "views": views,
        "image_size": [manifest.pixel_rule.height, manifest.pixel_rule.width],
        "tokens_of_a_view": patches + special,
        "patch_pairs": patch_share,
        "global_layers": model.global_layers,
        "attention_share": share,
        "rows": rows,
        "rounds": rounds,
        "threads": threads,
        "onnxruntime": ort.__version__,
        "kernel": instruction_set(find_library(ORT_LIBRARY)),
        "machine": platform.processor() or platform.machine(),
    }


def table(record: Mapping[str, Any]) -> str:
    """Return one Markdown row for each setting."""
    lines = [
        "| views | setting | pairs | elements | speed-up | bound | of the bound | selection |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {record['views']} | {row['setting']} | {row['pairs']:.1%} | {row['elements']:.1%} | "
        f"{row['speedup']:.2f} | {row['bound']:.2f} | {row['of_bound']:.0%} | "
        f"{row['selection_of_dense']:.3%} |"
        for row in record["rows"]
    ]
    lines.append(f"global attention: {record['attention_share']:.0%} of the dense run")
    return "\n".join(lines)


def main(words: list[str] | None = None) -> None:
    """Parse the command line, run, print a Markdown table, write the JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--views", type=int, default=48)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), help="see covis bench")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(words)
    bundle = open_bundle(arguments.bundle)
    record = measure(
        bundle, arguments.settings, arguments.views, arguments.rounds, arguments.threads
    )
    print(table(record))
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
