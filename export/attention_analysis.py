"""Statistics of dense global attention, layer by layer: weights by kind of token, mass by block.

They show why sparsity works. Special tokens take the largest weights, so they stay dense. Few
blocks of patches have most of the mass, so the others can be skipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from covis.engines.bundle.bundle import Bundle
from covis.export.models import load_model
from covis.export.models.multiview import MultiViewModel
from covis.export.ops import TokenLayout
from covis.export.selection.block_maps import K_BLOCK, Q_BLOCK, BlockMap, dense_selection

SHARES = (1, 5, 10)
"""Percent of the blocks whose mass is reported."""

_ROWS = 512  # queries whose weights are in memory at once
_KINDS = ("special", "patch")


@dataclass
class AttentionAnalysis:
    """A selection that keeps everything dense and measures it, one scene at a time.

    Attributes:
        layout: Token layout of the model.
        q_block, k_block: Patch tokens of a query block and of a key block.
        layers: Statistics by layer. `attention`: mean and largest weight from kind to kind of
            token. `row_mass`: share of the patch queries' mass on patches. `top_blocks`: by
            percentage of blocks, their share of the mass from patches to patches (mean of heads).
    """

    layout: TokenLayout
    q_block: int = Q_BLOCK
    k_block: int = K_BLOCK
    layers: dict[int, dict[str, Any]] = field(default_factory=dict)

    def __call__(self, layer: int, q: Tensor, k: Tensor) -> BlockMap:
        """Measure q, k (1, H, S, D) of a layer; see `Selection`."""
        self.layers[layer] = measure(q, k, self.layout, self.q_block, self.k_block)
        return dense_selection(layer, q, k)


def measure(
    q: Tensor, k: Tensor, layout: TokenLayout, q_block: int, k_block: int
) -> dict[str, Any]:
    """Return statistics of one layer's softmax weights; see `AttentionAnalysis.layers`.

    Weights are computed exactly, some rows of one head at a time: memory grows with S, not S^2.

    Args:
        q, k: Queries and keys (1, H, S, D).
        layout: Layout of the S tokens, with at least one patch token.
        q_block, k_block: Patch tokens of a query block and of a key block, counted frame-major.
    """
    heads, tokens, width = q.shape[1:]
    patch = _is_patch(layout, tokens, q.device)
    number = torch.cumsum(patch.to(torch.int64), 0) - 1
    patches = int(patch.sum())
    rows, columns = math.ceil(patches / q_block), math.ceil(patches / k_block)
    total = torch.zeros(2, 2, dtype=torch.float64)
    largest = torch.zeros(2, 2, dtype=torch.float64)
    top = torch.zeros(len(SHARES), dtype=torch.float64)
    for head in range(heads):
        mass = torch.zeros(rows, columns, dtype=torch.float64)
        for index in torch.split(torch.arange(tokens, device=q.device), _ROWS):
            scores = q[0, head, index].double() @ k[0, head].double().T / math.sqrt(width)
            weights = torch.softmax(scores, dim=-1)
            from_patch = patch[index]
            for a, queries in enumerate((~from_patch, from_patch)):
                for b, keys in enumerate((~patch, patch)):
                    part = weights[queries][:, keys]
                    if part.numel():
                        total[a, b] += part.sum().cpu()
                        largest[a, b] = torch.maximum(largest[a, b], part.max().cpu())
            by_column = torch.zeros(int(from_patch.sum()), columns, dtype=torch.float64)
            inner = weights[from_patch][:, patch].cpu()
            by_column.index_add_(1, torch.arange(patches) // k_block, inner)
            mass.index_add_(0, (number[index][from_patch] // q_block).cpu(), by_column)
        ordered = mass.flatten().sort(descending=True).values
        for n, percent in enumerate(SHARES):
            best = max(1, round(ordered.numel() * percent / 100))
            top[n] += ordered[:best].sum() / ordered.sum()
    counts = torch.tensor([tokens - patches, patches], dtype=torch.float64)
    mean = total / (heads * counts[:, None] * counts[None, :])
    return {
        "attention": {
            f"{one}_{other}": {"mean": _number(mean[a, b]), "max": _number(largest[a, b])}
            for a, one in enumerate(_KINDS)
            for b, other in enumerate(_KINDS)
        },
        "row_mass": _number(total[1, 1] / (heads * patches)),
        "top_blocks": {str(percent): _number(top[n] / heads) for n, percent in enumerate(SHARES)},
        "blocks": rows * columns,
    }


def _number(value: Tensor) -> float | None:
    """Return a number, or None for NaN, which a kind without tokens gives; JSON has no NaN."""
    number = float(value)
    return number if math.isfinite(number) else None


def _is_patch(layout: TokenLayout, tokens: int, device: torch.device) -> Tensor:
    index = torch.arange(tokens, device=device)
    place = index % layout.frame_tokens
    return (
        (index < tokens - layout.trailing_tokens)
        & (place >= layout.special_first)
        & (place < layout.frame_tokens - layout.special_last)
    )


def analyse(model: MultiViewModel, images: Tensor) -> list[dict[str, Any]]:
    """Return statistics of every global layer on one scene.

    Args:
        model: Model from `load_model`.
        images: Images (M, 3, H, W) in [0, 1].
    """
    height, width = images.shape[-2:]
    analysis = AttentionAnalysis(model.layout(height, width))
    with torch.no_grad():
        model(images[None], selection=analysis)
    return [{"layer": layer, **analysis.layers[layer]} for layer in sorted(analysis.layers)]


def mean_over_scenes(scenes: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Average means and shares over scenes, layer by layer; keep the largest of largest weights."""
    out = []
    for layers in zip(*scenes, strict=True):
        merged: dict[str, Any] = {"layer": layers[0]["layer"], "blocks": layers[0]["blocks"]}
        merged["attention"] = {
            pair: {
                "mean": _merge([each["attention"][pair]["mean"] for each in layers], mean=True),
                "max": _merge([each["attention"][pair]["max"] for each in layers], mean=False),
            }
            for pair in layers[0]["attention"]
        }
        merged["row_mass"] = _merge([each["row_mass"] for each in layers], mean=True)
        merged["top_blocks"] = {
            share: _merge([each["top_blocks"][share] for each in layers], mean=True)
            for share in layers[0]["top_blocks"]
        }
        out.append(merged)
    return out


def _merge(values: list[float | None], mean: bool) -> float | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return sum(known) / len(known) if mean else max(known)


def model_of_bundle(bundle: Bundle) -> MultiViewModel:
    """Return the torch model that the graphs of a bundle were exported from, with its weights."""
    manifest = bundle.manifest
    with bundle.weights.by_name() as path:
        return load_model(manifest.model.name, manifest.model.config, path)
