"""Instructions of choosing anchors on the GPU, counted by the emulator, beside a dense layer's.

    make plugins && python benchmarks/selection_counts.py

The kernels' PTX is run on the CPU (tests/emulator); the counts are warp instructions and say
nothing about time. FarthestFirst and the pair maps run at their full size, 500 and 1,000 views. A
dense layer and BlockSelect have 1,374 tokens a view and 16 heads there, too many to emulate: they
are counted for one head at two sizes, and scaled by the quadratic that these give.

FarthestFirst is one CTA, so it is also compared with what one of 132 multiprocessors executes of
the layer.

Writes benchmarks/results/selection_counts.json and prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import Tensor

from covis.export.ops.layout import TokenLayout
from covis.export.selection.pair_rules import PairRules
from tests.emulator.emulator import Emulator
from tests.vectors.farthest_case import farthest_case

TOKENS, SPECIAL, HEADS, MULTIPROCESSORS = 1374, 5, 16, 132
RESULTS = Path(__file__).resolve().parent / "results"


class Counter:
    """Counts warp instructions of launches in the emulator."""

    def __init__(self) -> None:
        self.emulator = Emulator()

    def count(self, launch: Callable[[], object]) -> int:
        """Return the instructions of one call."""
        before = self.emulator.counters()["instructions"]
        launch()
        return self.emulator.counters()["instructions"] - before

    def traversal(self, views: int, anchors: int, first: int) -> int:
        """Count FarthestFirst; `first` is the view given at step 0, or -1."""
        case = farthest_case("views", views=views, kind="clusters", given=[first])
        inputs = (torch.from_numpy(case.similarity), torch.from_numpy(case.given))
        return self.count(lambda: self.emulator.farthest_first(*inputs, torch.tensor(anchors)))

    def maps(self, views: int, anchors: int) -> int:
        """Count the pair maps of three regimes: own frame, 10 anchors, `anchors` and neighbours."""
        case = farthest_case("views", views=views, kind="clusters")
        rank = torch.full((views,), views, dtype=torch.int32)
        rank[:anchors] = torch.arange(anchors, dtype=torch.int32)
        none, flags = torch.full((3,), 2.0), torch.ones(3, dtype=torch.bool)
        numbers = torch.tensor([0, 10, anchors]), torch.tensor([0, 4, 4])
        rules = PairRules(none, none, *numbers, flags, torch.tensor(0), flags, flags)
        similarity = torch.from_numpy(case.similarity)
        return self.count(lambda: self.emulator.pair_levels(similarity, rank, rules._asdict()))

    def layer(self, tokens: int) -> int:
        """Count one head of dense attention."""
        q = self.random(tokens)
        level = torch.full((1, 1, 1, 1), 2, dtype=torch.int8)
        return self.count(lambda: self.emulator.attention(q, q, q, level))

    def block_select(self, views: int) -> int:
        """Count one head of BlockSelect that keeps an eighth of the blocks."""
        q = self.random(views * TOKENS)
        pair = torch.full((1, 1, 1, 1), 2, dtype=torch.int8)
        shares = torch.tensor(0.125), torch.tensor(0.5)
        layout = TokenLayout(TOKENS, SPECIAL)
        return self.count(lambda: self.emulator.block_select(q, q, pair, *shares, layout=layout))

    @staticmethod
    def random(tokens: int) -> Tensor:
        """Return (1, 1, tokens, 64) in float16."""
        return torch.randn(1, 1, tokens, 64, generator=torch.Generator().manual_seed(0)).half()


def scaled(counts: dict[int, int], size: int) -> float:
    """Return the count at `size` by a x + b x^2 through two counts."""
    sizes = np.array(list(counts), np.float64)
    terms = np.stack([sizes, sizes**2], 1)
    linear, square = np.linalg.solve(terms, np.array(list(counts.values()), np.float64))
    return float(linear * size + square * size**2)


def main() -> None:
    """Count; see the text of this module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--views", type=int, nargs="+", default=[500, 1000])
    parser.add_argument("--anchors", type=int, nargs="+", default=[25, 40])
    parser.add_argument("--out", type=Path, default=RESULTS / "selection_counts.json")
    options = parser.parse_args()
    counter = Counter()
    layers = {tokens: counter.layer(tokens) for tokens in (2048, 4096)}
    selects = {views: counter.block_select(views) for views in (6, 12)}
    print("| views | what | warp instructions | of one dense layer | of a multiprocessor's part |")
    print("|---|---|---|---|---|")
    rows = []
    for views in options.views:
        layer = HEADS * scaled(layers, views * TOKENS)
        found: dict[str, tuple[float, int]] = {"dense layer": (layer, MULTIPROCESSORS)}
        found["BlockSelect"] = HEADS * scaled(selects, views), MULTIPROCESSORS
        for anchors in options.anchors:
            for first, name in ((0, "given"), (-1, "chosen")):
                what = f"FarthestFirst, {anchors} anchors, first {name}"
                found[what] = counter.traversal(views, anchors, first), 1
        found["three pair maps"] = counter.maps(views, max(options.anchors)), MULTIPROCESSORS
        for what, (count, parts) in found.items():
            share, alone = count / layer, count / parts / (layer / MULTIPROCESSORS)
            rows.append({"views": views, "what": what, "instructions": count, "share": share,
                         "share_of_multiprocessor": alone})  # fmt: skip
            print(f"| {views} | {what} | {count:.4g} | {share:.2g} | {alone:.2g} |", flush=True)
    record = {
        "command": " ".join(["python", *sys.argv]),
        "tokens_of_a_view": TOKENS,
        "heads": HEADS,
        "layer_of_one_head_by_tokens": layers,
        "block_select_of_one_head_by_views": selects,
        "rows": rows,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
