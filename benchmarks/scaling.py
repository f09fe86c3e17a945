"""Compute memory, traffic and time of one VGGT-1B run on several GPUs, from the model's shape.

    python benchmarks/scaling.py [--views 1000 10000] [--gpus 1 8 64]

Nothing here is measured: these are counts of operations and bytes, divided by the rates of `GPU`.
Each GPU has an equal share of the views, and computes their queries in every global layer (sequence
parallelism). It receives the keys and values that these queries attend to and that other GPUs have:

- dense: those of all views, passed around in a ring (Liu et al. 2023, "Ring attention");
- anchors: those of the anchors, of the most similar views, and of the special tokens of all views.

Special tokens are dense as queries, too. Their few queries travel to all keys, instead of all keys
to them: each GPU answers for its own keys, and the answers are added with the weights of their
softmax sums, as the blocks of one GPU are (Milakov and Gimelshein 2018, "Online normalizer
calculation for softmax").
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from covis.engines.options import Selector, Sparsity
from covis.engines.pair_rules import pair_rules


@dataclass(frozen=True)
class Shape:
    """Shape of a model: VGGT-1B at 518 x 518.

    Attributes:
        channels: Width C of a token.
        heads: Attention heads.
        layers: Global layers, and as many layers inside each frame.
        encoder_layers: Layers of the encoder, of the same width.
        patches: Patch tokens of a view.
        special: Special tokens of a view.
        parameters: Parameters of the model.
        taps: Tensors (patches, C) of a view that the heads read, in float32.
    """

    channels: int = 1024
    heads: int = 16
    layers: int = 24
    encoder_layers: int = 24
    patches: int = 37 * 37
    special: int = 5
    parameters: int = 1_257_000_000
    taps: int = 8

    @property
    def tokens(self) -> int:
        """Tokens of a view."""
        return self.patches + self.special


@dataclass(frozen=True)
class Gpu:
    """Rates of an H100 SXM, by its data sheet, and the share of them that kernels are taken to use.

    Attributes:
        flops: Operations a second of dense FP16 matrix products.
        efficiency: Share of `flops` that attention and linear layers reach; an assumption.
        near: Bytes a second that a GPU receives from others in its node, over NVLink.
        far: Bytes a second that it receives from another node, over one 400 Gb/s adapter.
        node: GPUs of a node.
    """

    flops: float = 989e12
    efficiency: float = 0.6
    near: float = 450e9
    far: float = 50e9
    node: int = 8

    def bandwidth(self, gpus: int) -> float:
        """Return the bytes a second that bound an exchange between so many GPUs."""
        return self.near if gpus <= self.node else self.far


@dataclass(frozen=True)
class Cost:
    """Cost of one run for each GPU.

    Attributes:
        memory: Peak memory in bytes.
        traffic: Bytes received from other GPUs.
        compute: Seconds of computing.
        exchange: Seconds of receiving, if nothing of it overlaps with computing.
    """

    memory: float
    traffic: float
    compute: float
    exchange: float


def run_cost(
    views: int, gpus: int, selector: Selector, *, local: bool = True, shape: Shape, gpu: Gpu
) -> Cost:
    """Return the cost of one run with the views shared out evenly.

    Args:
        views: Number of views M.
        gpus: Number of GPUs G.
        selector: `dense` or `anchors`, with the defaults of covis.
        local: The most similar views of a view are on its own GPU, as after a cut along the graph
            of similarity; otherwise views lie anywhere.
        shape: Shape of the model.
        gpu: Rates.
    """
    rules = pair_rules(Sparsity(selector=selector), shape.layers, views, True)
    C, P, S, T = shape.channels, shape.patches, shape.special, shape.tokens
    own, away = views / gpus, 1 - 1 / gpus
    pair, linear = 4 * C, 24 * C**2  # operations of a query and key, and of a token in a layer
    row = 2 * 2 * C  # bytes of a token's key and value in FP16
    operations = own * T * (linear + pair * T) * (shape.layers + shape.encoder_layers)
    traffic = largest = 0.0
    for index in rules.layer_map:
        operations += own * T * linear
        received = 0.0
        if rules.tau[index] <= 0:  # dense
            operations += own * T * views * T * pair
            received = views * away * T * row
            buffer = min(2, gpus - 1) * own * T * row
        else:
            anchors, near = int(rules.anchors[index]), int(rules.min_neighbours[index])
            keys = min(anchors + near + int(rules.own_frame[index]), views)
            patch = own * P * (keys * P + views * S)
            special = views * S * own * T
            operations += (patch + special) * pair
            similar = 0.0 if local else min(near * own, views) * away
            received = (min(anchors, views) * away + similar) * P * row
            received += views * S * away * (row + 2 * C + 4 * C + 4 * shape.heads)
            buffer = received
        traffic += received
        largest = max(largest, buffer)
    weights = 2 * shape.parameters
    # The stream of tokens before and after a layer, queries, keys and values: FP16.
    live = own * T * C * 2 * (2 + 3)
    taps = own * shape.taps * P * C * 4
    return Cost(
        weights + live + taps + largest,
        traffic,
        operations / (gpu.flops * gpu.efficiency),
        traffic / gpu.bandwidth(gpus),
    )


def parts_cost(
    views: int, gpus: int, part: int, selector: Selector, *, shape: Shape, gpu: Gpu
) -> Cost:
    """Return the cost of a collection cut into parts of `part` views, of which 12 are shared."""
    alone = run_cost(part, 1, selector, shape=shape, gpu=gpu)
    parts = int(np.ceil(views / (part - 12)))
    rounds = int(np.ceil(parts / gpus))
    return Cost(alone.memory, 0.0, rounds * alone.compute, 0.0)


def table(views: int, gpus: Sequence[int]) -> list[str]:
    """Return the lines of a Markdown table for one number of views."""
    shape, gpu = Shape(), Gpu()
    lines = [
        "| GPUs | way | memory of each, GB | received by each, GB | computing, s | receiving, s |",
        "|---|---|---|---|---|---|",
    ]
    for count in gpus:
        rows = {
            "dense": run_cost(views, count, "dense", shape=shape, gpu=gpu),
            "anchors": run_cost(views, count, "anchors", shape=shape, gpu=gpu),
            "anchors, views placed at random": run_cost(
                views, count, "anchors", local=False, shape=shape, gpu=gpu
            ),
            "parts of 250, anchors": parts_cost(views, count, 250, "anchors", shape=shape, gpu=gpu),
        }
        if count == 1:
            rows.pop("anchors, views placed at random")
        for name, cost in rows.items():
            numbers = (cost.memory / 1e9, cost.traffic / 1e9, cost.compute, cost.exchange)
            lines.append(f"| {count} | {name} | " + " | ".join(map(_short, numbers)) + " |")
    return lines


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--views", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    options = parser.parse_args()
    for views in options.views:
        print(f"### {views:,} views\n")
        print("\n".join(table(views, options.gpus)) + "\n")


if __name__ == "__main__":
    main()
