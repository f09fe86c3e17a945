"""The attention kernels on a GPU, against the fastest dense attention and sparse peers there.

    python benchmarks/attention_gpu.py --out benchmarks/results/attention_h200.json

Every ratio compares numbers of one run on one card. D is the fastest dense fp16 attention among
torch's flash SDPA, cuDNN SDPA and FlashAttention-4. Peers that are not installed are listed as
absent. Inputs are random normal tokens; times are medians of CUDA events, with a cold L2 cache.
Each row alternates with D, so that its ratios belong to the same clocks, which are logged with it.
Needs torch, numpy and the built library; stops after `--seconds`, and lists what was not measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.gpu_facts import gpu_facts  # noqa: E402
from benchmarks.gpu_maps import block_name, pair_map, rounded  # noqa: E402
from benchmarks.gpu_rows import SUBJECTS, subject  # noqa: E402
from benchmarks.gpu_summary import summary, text  # noqa: E402
from benchmarks.gpu_table import Keep, Table  # noqa: E402
from benchmarks.gpu_timing import Record, measure  # noqa: E402
from benchmarks.peers_gpu import PEERS, run_peer  # noqa: E402
from covis.engines.system.native import KERNELS_LIBRARY  # noqa: E402
from covis.export.ops.cuda.binding import load_kernels  # noqa: E402

PEER_DENSITY = 0.126


def measure_peers(
    record: Record,
    frames: int,
    library: Any,
    left_out: Collection[str],
    seconds: Callable[[], float],
    keep: Keep,
) -> None:
    """Measure the sparse peers and our kernel on one map, into `record`, while there is time.

    Our kernel runs on the frame-pair map, and on its rounding to each peer's blocks. `seconds`
    returns the time left for the next peer, and `keep` is called after each peer.
    """
    level = pair_map(frames, PEER_DENSITY).cuda()
    table = Table(frames, 64, library, left_out)
    record |= {"frames": frames, "density": PEER_DENSITY, "of": {}, "ours": {}}
    ours = subject("auto", "full", hopper=table.hopper) not in left_out
    blocks = sorted({peer.block for peer in PEERS.values()}) if ours else []
    if ours:
        record["ours"]["frame pairs"] = measure(table.op(level), 1.0)
    for block in blocks:
        regions = (2 * rounded(level, *block).kept).to(torch.int8)[None, None]
        record["ours"][block_name(block)] = measure(table.regions(regions, block), 1.0)
    del table
    torch.cuda.empty_cache()
    for name, peer in PEERS.items():
        if importlib.util.find_spec(peer.module) is None:
            record["of"][name] = {"absent": f"{peer.module} is not installed"}
        elif seconds() < 10:
            record["of"][name] = {"absent": "not run: no time was left"}
        else:
            record["of"][name] = run_peer(name, frames, PEER_DENSITY, 64, seconds())
        keep()


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--library", type=Path, default=ROOT / "build" / "cuda" / KERNELS_LIBRARY)
    parser.add_argument("--seconds", type=float, default=270.0)
    parser.add_argument("--frames", type=int, nargs="+", default=[100, 20, 200, 500])
    parser.add_argument("--peer-frames", type=int, default=100)
    parser.add_argument(
        "--peer-seconds", type=float, default=90.0, help="of one peer; most compile at first use"
    )
    parser.add_argument(
        "--left-out", nargs="+", default=[], choices=SUBJECTS, help="kernels that must not be run"
    )
    return parser.parse_args(words)


def main() -> None:
    """Measure, and rewrite the JSON file after each row and each peer."""
    options = arguments()
    started = time.monotonic()

    def left() -> float:
        return float(options.seconds) - (time.monotonic() - started)

    library = load_kernels(options.library)
    result: Record = {
        "command": " ".join(sys.argv),
        **gpu_facts(),
        "cuda": torch.version.cuda,
        "left_out": options.left_out,
        "tables": [],
        "not_measured": [],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)

    def write() -> None:
        result["summary"] = summary(result)
        scratch = options.out.with_name(f".{options.out.name}.partial")
        scratch.write_text(json.dumps(result, indent=1))
        scratch.replace(options.out)  # an interruption leaves the last complete record

    def peers() -> None:
        result["peers"] = {}
        try:
            measure_peers(
                result["peers"],
                options.peer_frames,
                library,
                options.left_out,
                lambda: min(options.peer_seconds, left()),
                write,
            )
        except Exception as error:  # the tables matter more than the peers
            result["peers"]["absent"] = f"{type(error).__name__}: {error}"
        write()

    # 100 views (137,400 tokens) first: the table that the targets are stated for. Then the peers.
    work = [(frames, 64) for frames in options.frames]
    work.insert(1, (20, 128))
    for index, (frames, head_dim) in enumerate(work):
        if index == 1:
            peers()
        # A dense call grows with the square of the length; the guess for 100 views only decides
        # whether a table is begun. Each of its some 22 measurements makes four calls at least, and
        # four of D beside most.
        needed = 120 * 0.16 * (frames / 100) ** 2 * (head_dim / 64) + 25
        if left() < needed:
            result["not_measured"].append(
                {"frames": frames, "head_dim": head_dim, "left_s": left()}
            )
            continue
        result["tables"].append({"frames": frames, "head_dim": head_dim, "rows": []})
        table = Table(frames, head_dim, library, options.left_out)
        table.measure(result["tables"][-1], 1.5, write)
        torch.cuda.empty_cache()
    write()
    print(text(result))


if __name__ == "__main__":
    main()
