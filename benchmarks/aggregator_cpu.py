"""A whole aggregator on the CPU: dense against sparse, and against Amdahl's bound.

    python benchmarks/aggregator_cpu.py BUNDLE --views 12 --density 0.125 --rounds 1 --out FILE.json

The settings alternate in one process, on one thread. Times are CPU seconds, which a busy machine
disturbs least; only ratios are meaningful. The bound uses the time of global attention in ONNX
Runtime's profile of the dense run: if skipped blocks cost nothing, a run would take the dense time
minus (1 - density) of the attention that it may skip. Density counts elements: special tokens stay
dense, so it is a little above the density of pairs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from covis.engines.bundle.bundle import open_bundle
from covis.engines.layers import parse_layers
from covis.engines.system.native import ORT_LIBRARY, find_library, instruction_set

SETTINGS = {"dense": "none", "layers 0-9": "0-9", "all layers": "all"}


def pair_map(views: int, density: float, seed: int = 0) -> np.ndarray:
    """Return symmetric random frame-pair levels with full diagonal and about this density."""
    rng = np.random.default_rng(seed)
    level = 2 * np.eye(views, dtype=np.int8)
    upper = np.argwhere(np.triu(np.ones((views, views)), 1))
    pairs = max(0, round((density * views * views - views) / 2))
    for i, j in upper[rng.permutation(len(upper))[:pairs]]:
        level[i, j] = level[j, i] = 2
    return level[None, None]


def profiled_attention(path: Path, layers: int) -> list[float]:
    """Return the seconds of each global attention in a profile: calls with a single batch entry."""
    events = json.loads(path.read_text())
    calls = [
        event["dur"] / 1e6
        for event in events
        if event.get("args", {}).get("op_name") == "BlockSparseAttention"
        and event["name"].endswith("kernel_time")
    ]
    # Frame and global attention alternate; which comes first is the model's, the later is VGGT's.
    return calls[1::2] if len(calls) == 2 * layers else calls


def main() -> None:
    """Parse the command line, run, print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--views", type=int, default=12)
    parser.add_argument("--density", type=float, default=0.125)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    bundle = open_bundle(arguments.bundle)
    model = bundle.manifest.model
    stage = bundle.manifest.stage("aggregator")
    views, patches = arguments.views, bundle.manifest.patches
    options = ort.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.disable_prepacking", "1")
    library = find_library(ORT_LIBRARY)
    assert library is not None, "build the CPU kernel first"
    options.register_custom_ops_library(str(library))
    session = ort.InferenceSession(str(bundle.graph(stage).path), options)
    options.enable_profiling = True
    scratch = tempfile.TemporaryDirectory()
    options.profile_file_prefix = str(Path(scratch.name) / "profile")
    profiled = ort.InferenceSession(str(bundle.graph(stage).path), options)

    channels = next(t.shape[-1] for t in stage.inputs if t.name == "patch_tokens")
    tokens = np.random.default_rng(0).normal(size=(views, patches, int(channels)))
    level = pair_map(views, arguments.density)
    feeds = {
        "patch_tokens": tokens.astype(np.float32),
        "pair_level": level,
        "probe": np.zeros(1, np.int64),
    }
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    attention: list[float] = []
    for turn in range(arguments.rounds):
        for name, layers in SETTINGS.items():
            mask = np.zeros(model.global_layers, np.bool_)
            mask[list(parse_layers(layers, model.global_layers))] = True
            runner = profiled if turn == 0 and name == "dense" else session
            start = time.process_time()
            runner.run(None, {**feeds, "sparse_layers": mask})
            seconds[name].append(time.process_time() - start)
            print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
            if runner is profiled:
                path = Path(profiled.end_profiling())
                attention = profiled_attention(path, model.global_layers)

    special = model.special_first + model.special_last
    share = patches / (patches + special)
    pairs = float((level > 0).mean())
    density = 1 - share * share * (1 - pairs)
    dense = statistics.median(seconds["dense"])
    print("| setting | speed-up | Amdahl's bound | share of the bound |\n|---|---|---|---|")
    rows = []
    for name, layers in SETTINGS.items():
        chosen = parse_layers(layers, model.global_layers)
        skipped = sum(attention[i] for i in chosen) * (1 - density)
        bound = seconds["dense"][0] / (seconds["dense"][0] - skipped)
        speedup = dense / statistics.median(seconds[name])
        print(f"| {name} | {speedup:.2f} | {bound:.2f} | {speedup / bound:.0%} |")
        rows.append({"setting": name, "speedup": speedup, "bound": bound})
    print(f"global attention: {sum(attention) / seconds['dense'][0]:.0%} of the dense run; "
          f"{views} views, {pairs:.1%} of the pairs, {density:.1%} of the elements")  # fmt: skip
    if arguments.out:
        record = {
            "views": views,
            "pairs": pairs,
            "elements": density,
            "attention_share": sum(attention) / seconds["dense"][0],
            "rows": rows,
            "rounds": arguments.rounds,
            "onnxruntime": ort.__version__,
            "kernel": instruction_set(library),
            "machine": platform.processor() or platform.machine(),
        }
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
