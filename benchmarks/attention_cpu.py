"""BlockSparseAttention on the CPU against dense peers and flex_attention, in one interleaved run.

    python benchmarks/attention_cpu.py            # the whole table, about half an hour on two cores
    python benchmarks/attention_cpu.py --quick    # 4k tokens, few densities
    python benchmarks/attention_cpu.py --no-peers --rounds 15    # the kernel alone

Every peer gets the same tensors (float32, 16 heads, D = 64) and the same number of threads. The
peers of one size alternate, round by round, so that other load on the machine affects all of them.
The table contains medians, and ratios of medians. Time is wall-clock time; CPU seconds of the
process are recorded too, because a busy machine disturbs them least, and the shortest wall time,
which is nearest to that of a quiet machine.

"Share of dense rate" is the useful GFLOP/s (of attended pairs) over those of covis' own dense run.
The sequence is 32 frames. Maps: random blocks of 128 x 64, for each head anew; random frame pairs;
anchors, where each frame attends to itself and to the same few frames; self, where it attends to
itself alone, beside dense attention over a batch of frames, which computes the same; and the last
two with 5 special tokens a frame.

A session's threads wait actively for some 40 ms after a run, on cores that the next peer needs.
So all sessions end their waiting with the run.

Writes JSON (--out) and prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
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
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

Array = NDArray[Any]
HEADS, HEAD_SIZE = 16, 64
DENSITIES = (0.5, 0.25, 0.125, 0.0625)
FRAMES, SPECIALS = 32, 5
RESULTS = Path(__file__).resolve().parent / "results"
Run = Callable[[], object]


@dataclass
class Row:
    """One peer at one size: seconds are medians over the rounds, `best` the least of them."""

    tokens: int
    peer: str
    map: str
    density: float
    wall: float
    cpu: float
    best: float


def ort_session(
    node: onnx.NodeProto, shapes: dict[str, list[int]], threads: int, library: str = ""
) -> onnxruntime.InferenceSession:
    """Return a session of one node; int8 for `level` and `pair`, float32 for the rest."""
    inputs = [
        helper.make_tensor_value_info(
            name, TensorProto.INT8 if name in ("level", "pair") else TensorProto.FLOAT, shape
        )
        for name, shape in shapes.items()
    ]
    kind = TensorProto.INT8 if node.op_type == "BlockSelect" else TensorProto.FLOAT
    output = helper.make_tensor_value_info(node.output[0], kind, None)
    opsets = [
        helper.make_opsetid("", 23),
        helper.make_opsetid("covis", 1),
        helper.make_opsetid("com.microsoft", 1),
    ]
    proto = helper.make_model(
        helper.make_graph([node], "peer", inputs, [output]), opset_imports=opsets, ir_version=11
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if library:
        options.register_custom_ops_library(library)
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def session_run(session: onnxruntime.InferenceSession, feeds: dict[str, Array]) -> Run:
    """Return a call of the session that always writes into its own output buffer."""
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_cpu_input(name, value)
    first = session.run(None, feeds)[0]
    alive = [first, *feeds.values()]  # the binding stores addresses only
    binding.bind_output(
        session.get_outputs()[0].name, "cpu", 0, first.dtype, first.shape, first.ctypes.data
    )

    def call() -> object:
        session.run_with_iobinding(binding)
        return alive

    return call


def random_map(tokens: int, density: float, generator: np.random.Generator) -> Array:
    """Return an int8 map (1, HEADS, tokens / 128, tokens / 64), as many key blocks in each row."""
    rows, columns = -(-tokens // 128), -(-tokens // 64)
    count = max(1, round(density * columns))
    order = generator.random((1, HEADS, rows, columns)).argsort(-1)
    level: Array = np.where(order < count, 2, 0).astype(np.int8)
    return level


@dataclass
class Map:
    """A level map as the op takes it, and the share of all token pairs that it keeps."""

    name: str
    level: Array
    attributes: dict[str, int]
    kept: float


def frame_map(name: str, level: Array, frame_tokens: int, specials: int = 0) -> Map:
    """Return the map of `level` (frames, frames) for frames that begin with `specials` tokens."""
    frames, patches = len(level), frame_tokens - specials
    tokens = frames * frame_tokens
    attributes = {"frame_tokens": frame_tokens, "special_first": specials}
    attributes |= {"q_block": patches, "k_block": patches}
    pairs = int(level.sum()) * patches**2 + tokens**2 - (frames * patches) ** 2
    return Map(name, (2 * level.astype(np.int8))[None, None], attributes, pairs / tokens**2)


def pair_map(density: float, generator: np.random.Generator) -> Array:
    """Return a bool map (FRAMES, FRAMES): each frame attends to itself and to random others."""
    count = max(1, round(density * FRAMES))
    order = generator.random((FRAMES, FRAMES))
    np.fill_diagonal(order, -1.0)
    kept: Array = order.argsort(-1).argsort(-1) < count
    return kept


def anchor_map(density: float, generator: np.random.Generator) -> Array:
    """Return a bool map (FRAMES, FRAMES): each frame attends to itself and to the same others."""
    kept: Array = np.eye(FRAMES, dtype=bool)
    kept[:, generator.permutation(FRAMES)[: max(1, round(density * FRAMES))]] = True
    return kept


def sparse_maps(tokens: int, density: float, generator: np.random.Generator) -> list[Map]:
    """Return the maps of one density; that of anchors keeps the own frame besides."""
    blocks = random_map(tokens, density, generator)
    sizes = {"q_block": 128, "k_block": 64}
    frame = tokens // FRAMES
    anchors = anchor_map(density, generator)
    return [
        Map("random 128x64", blocks, sizes, float((blocks > 0).mean())),
        frame_map("frame pairs", pair_map(density, generator), frame),
        frame_map("anchors", anchors, frame),
        frame_map("anchors, specials", anchors, frame, SPECIALS),
    ]


def dense_peers(q: Array, k: Array, v: Array, threads: int) -> dict[str, Run]:
    """Return ONNX Runtime's two attentions and torch's, each in its fastest layout."""
    tokens = q.shape[2]
    width = HEADS * HEAD_SIZE
    packed = {
        name: np.ascontiguousarray(x.transpose(0, 2, 1, 3).reshape(1, tokens, width))
        for name, x in zip("QKV", (q, k, v), strict=True)
    }
    multi = helper.make_node(
        "MultiHeadAttention", list("QKV"), ["O"], domain="com.microsoft", num_heads=HEADS
    )
    plain = helper.make_node("Attention", list("QKV"), ["O"])
    shape = list(q.shape)
    tq, tk, tv = (torch.from_numpy(x) for x in (q, k, v))
    sdpa = torch.nn.functional.scaled_dot_product_attention
    return {
        "onnxruntime MultiHeadAttention": session_run(
            ort_session(multi, {n: [1, tokens, width] for n in "QKV"}, threads), packed
        ),
        "onnxruntime Attention": session_run(
            ort_session(plain, dict.fromkeys("QKV", shape), threads), {"Q": q, "K": k, "V": v}
        ),
        "torch SDPA": lambda: sdpa(tq, tk, tv),
    }


def covis_run(library: str, feeds: dict[str, Array], threads: int, **attributes: int) -> Run:
    """Return a call of BlockSparseAttention of libcovis_ort."""
    node = helper.make_node("BlockSparseAttention", [*"QKV", "level"], ["O"], domain="covis")
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    shapes = {name: list(value.shape) for name, value in feeds.items()}
    return session_run(ort_session(node, shapes, threads, library), feeds)


def select_run(library: str, q: Array, k: Array, threads: int) -> Run:
    """Return a call of BlockSelect with the default blocks that selects an eighth of them."""
    node = helper.make_node(
        "BlockSelect", ["Q", "K", "pair", "keep_ratio", "cdf"], ["level"], domain="covis"
    )
    feeds = {
        "Q": q,
        "K": k,
        "pair": np.full((1, 1, 1, 1), 2, np.int8),
        "keep_ratio": np.array(0.125, np.float32),
        "cdf": np.array(0.5, np.float32),
    }
    shapes = {name: list(value.shape) for name, value in feeds.items()}
    return session_run(ort_session(node, shapes, threads, library), feeds)


def flex_run(
    flex: Any, q: Array, k: Array, v: Array, level: Array, q_size: int, k_size: int
) -> Run:
    """Return a call of compiled torch flex_attention with the block mask of the same map.

    Every selected block is a full one, which flex computes without its mask function. The lists are
    computed here, because `create_block_mask` first evaluates a mask of tokens x tokens for each
    head.
    """
    from torch.nn.attention.flex_attention import BlockMask

    selected = torch.from_numpy(level > 0)
    # A clone, because inductor merges one tensor passed twice into one argument.
    full = selected.sum(dim=-1, dtype=torch.int32)
    indices = selected.to(torch.int8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    blocks = BlockMask.from_kv_blocks(
        torch.zeros_like(full), indices.clone(), full, indices, BLOCK_SIZE=(q_size, k_size),
        seq_lengths=(q.shape[2], k.shape[2]),
    )  # fmt: skip
    tq, tk, tv = (torch.from_numpy(x) for x in (q, k, v))
    return lambda: flex(tq, tk, tv, block_mask=blocks)


def measure(runs: dict[str, Run], rounds: int) -> dict[str, tuple[float, float, float]]:
    """Return median wall and CPU seconds and the least wall seconds of each.

    They alternate, after one round that is not measured.
    """
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            run()
            if turn > 0:
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - start_cpu)
    return {name: (median(wall[name]), median(cpu[name]), min(wall[name])) for name in runs}


def benchmark(
    tokens: int,
    densities: tuple[float, ...],
    rounds: int,
    threads: int,
    library: str,
    flex: Any,
    peers: bool,
) -> list[Row]:
    """Measure all peers at one number of tokens."""
    generator = np.random.default_rng(0)
    shape = (1, HEADS, tokens, HEAD_SIZE)
    q, k, v = (generator.standard_normal(shape, dtype=np.float32) for _ in range(3))
    feeds = {"Q": q, "K": k, "V": v}
    one = np.full((1, 1, 1, 1), 2, np.int8)
    runs: dict[str, Run] = {}
    meaning: dict[str, tuple[str, str, float]] = {}

    def add(peer: str, kind: str, density: float, run: Run) -> None:
        name = f"{peer}/{kind}/{density}"
        runs[name] = run
        meaning[name] = (peer, kind, density)

    def add_map(chosen: Map) -> None:
        run = covis_run(library, {**feeds, "level": chosen.level}, threads, **chosen.attributes)
        add("covis", chosen.name, chosen.kept, run)

    def add_flex(name: str, level: Array, density: float, q_size: int, k_size: int) -> None:
        if flex is not None:
            run = flex_run(flex, q, k, v, level, q_size, k_size)
            add("torch flex_attention", name, density, run)

    if peers:
        for peer, run in dense_peers(q, k, v, threads).items():
            add(peer, "dense", 1.0, run)
    add_map(Map("dense", one, {}, 1.0))
    add_flex("dense", random_map(tokens, 1.0, generator), 1.0, 128, 64)
    for density in densities:
        for chosen in sparse_maps(tokens, density, generator):
            add_map(chosen)
            if chosen.name in ("random 128x64", "frame pairs"):
                sizes = (chosen.attributes["q_block"], chosen.attributes["k_block"])
                add_flex(chosen.name, chosen.level, chosen.kept, *sizes)
    own, frame = np.eye(FRAMES, dtype=bool), tokens // FRAMES
    batch = {name: x.reshape(1, HEADS * FRAMES, frame, HEAD_SIZE) for name, x in feeds.items()}
    add(
        "covis", "batch of frames", 1 / FRAMES, covis_run(library, {**batch, "level": one}, threads)
    )
    add_map(frame_map("self", own, frame))
    add_map(frame_map("self, specials", own, frame, SPECIALS))
    add("covis BlockSelect", "select", 1.0, select_run(library, q, k, threads))
    return [
        Row(tokens, *meaning[name], *seconds) for name, seconds in measure(runs, rounds).items()
    ]


def compiled_flex() -> Any:
    """Return flex_attention through inductor, or None with the reason on stderr."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    try:
        torch._dynamo.config.recompile_limit = 256  # every map is a recompilation
        flex = torch.compile(flex_attention, dynamic=False)  # dynamic shapes fail in inductor
        blocks = create_block_mask(lambda b, h, i, j: i >= 0, None, None, 256, 256, device="cpu")
        x = torch.randn(1, 2, 256, HEAD_SIZE)
        flex(x, x, x, block_mask=blocks)
    except Exception as error:  # inductor wraps any error of its compiler
        print(f"flex_attention is left out: {error}", file=sys.stderr)
        return None
    return flex


def table(rows: list[Row], clock: str) -> str:
    """Return Markdown: seconds, useful GFLOP/s, and the ratios that the project aims at."""

    def seconds(row: Row) -> float:
        return {"wall": row.wall, "cpu": row.cpu, "best": row.best}[clock]

    lines = [
        "| tokens | map | kept | peer | s | GFLOP/s | share of dense rate | vs own dense | vs flex "
        "| vs best dense |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for tokens in sorted({row.tokens for row in rows}):
        group = [row for row in rows if row.tokens == tokens]
        own = next(seconds(row) for row in group if row.peer == "covis" and row.map == "dense")
        others = [seconds(row) for row in group if row.map == "dense" and row.peer != "covis"]
        flops = 4.0 * HEADS * HEAD_SIZE * tokens * tokens
        for row in group:
            if row.peer == "covis BlockSelect":
                share = f"{100 * seconds(row) / own:.2f} % of own dense"
                lines.append(
                    f"| {tokens} | | | {row.peer} | {seconds(row):.4f} | | | {share} | | |"
                )
                continue
            flex = [
                seconds(other)
                for other in group
                if other.peer == "torch flex_attention"
                and (other.map, other.density) == (row.map, row.density)
            ]
            ours = row.peer == "covis"
            sparse = ours and row.map != "dense"
            lines.append(
                f"| {tokens} | {row.map} | {100 * row.density:.1f} % | {row.peer} "
                f"| {seconds(row):.3f} "
                f"| {flops * row.density / seconds(row) / 1e9:.1f} "
                f"| {f'{100 * row.density * own / seconds(row):.0f} %' if sparse else ''} "
                f"| {f'{own / seconds(row):.2f}' if ours else ''} "
                f"| {f'{flex[0] / seconds(row):.2f}' if ours and flex else ''} "
                f"| {f'{min(others) / seconds(row):.2f}' if ours and others else ''} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark; see the text of this module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="4k tokens, three densities")
    parser.add_argument("--tokens", type=int, nargs="*", help="numbers of tokens")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu", "best"),
        default="wall",
        help="seconds of the table: median wall or CPU seconds, or the least wall seconds",
    )
    parser.add_argument("--no-flex", action="store_true", help="leave flex_attention out")
    parser.add_argument("--no-peers", action="store_true", help="leave all other attentions out")
    parser.add_argument("--out", type=Path, help="JSON file; by default in benchmarks/results")
    parser.add_argument("--library", help="libcovis_ort; built from this checkout by default")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    library = options.library
    if library is None:
        from tests.plugins.native import library as built

        library = str(built())
    flex = None if options.no_flex or options.no_peers else compiled_flex()
    densities = (0.125, 0.0625) if options.quick else DENSITIES
    sizes = options.tokens or ([4096] if options.quick else [4096, 8192, 16384])
    rows: list[Row] = []
    for tokens in sizes:
        rows += benchmark(
            tokens,
            densities,
            options.rounds,
            options.threads,
            library,
            flex,
            peers=not options.no_peers,
        )
    print(table(rows, options.clock))
    record = {
        "command": " ".join(["python", *sys.argv]),
        "machine": platform.processor() or platform.machine(),
        "threads": options.threads,
        "rounds": options.rounds,
        "load": list(os.getloadavg()),
        "versions": {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__},
        "rows": [asdict(row) for row in rows],
    }
    RESULTS.mkdir(exist_ok=True)
    name = "attention_cpu_quick.json" if options.quick else "attention_cpu.json"
    (options.out or RESULTS / name).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
