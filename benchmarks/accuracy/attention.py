"""Statistics of dense global attention: kinds of tokens, entropy, and attention to true matches."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accuracy.scenes import HeldOut
from covis.export.attention_analysis import AttentionAnalysis
from covis.export.ops import TokenLayout
from covis.export.selection.block_maps import BlockMap
from covis.export.training.correspondences import Correspondences, correspondences


@dataclass
class MatchStatistics:
    """A selection that keeps everything dense and measures entropy and matches, layer by layer.

    Attributes:
        layout: Token layout of the model.
        matches: True matches of the patches of a scene.
        layers: By layer, lists over heads. `entropy`: mean entropy in nats of the attention of
            patch queries over all keys. `relative`: that divided by the log of the number of keys.
            `own`, `special`, `first`: mass of patch queries on the patches of their own view, on
            special tokens, and, of the other views' queries, on the patches of view 0. `mass`: mass
            on the patches that truly match, in other views. `found`: share of the pairs of a
            query and another view that sees its point, in which the strongest of that view's
            patches is the match. `chance`: the value of `mass` if attention were uniform.
    """

    layout: TokenLayout
    matches: Correspondences
    layers: dict[int, dict[str, list[float]]] = field(default_factory=dict)

    def __call__(self, layer: int, q: Tensor, k: Tensor) -> None:
        """Measure q, k (1, H, S, D) of a layer, a view's queries of one head at a time."""
        views = self.matches.patch.shape[1]
        patch, special = self.layout.split(q.shape[2], q.device)
        by_view = patch.reshape(views, -1)
        heads = [
            _mean_over_views(
                [self._view(i, q[0, head], k[0, head], by_view, special) for i in range(views)]
            )
            for head in range(q.shape[1])
        ]
        self.layers[layer] = {name: [head[name] for head in heads] for name in heads[0]}

    def _view(
        self, view: int, q: Tensor, k: Tensor, patch: Tensor, special: Tensor
    ) -> dict[str, tuple[float, int]]:
        """Return sums and counts of one view's patch queries in one head, from q, k (S, D)."""
        views, patches = patch.shape
        scores = q[patch[view]].double() @ k.double().T / math.sqrt(q.shape[-1])
        logs = torch.log_softmax(scores, dim=-1)
        weights = logs.exp()
        entropy = -(weights * logs).sum(dim=-1)
        others = torch.arange(views) != view
        target = self.matches.patch[0, view]  # (M, P): of each query p, the patch in view j
        seen = self.matches.visible[0, view] & others[:, None]
        on_patches = weights[:, patch.flatten()].reshape(patches, views, patches).transpose(0, 1)
        hit = on_patches.gather(-1, target[..., None])[..., 0]
        right = on_patches.argmax(dim=-1) == target
        count = int(seen.sum())
        keys = weights.shape[1]
        first = float(on_patches[0].sum()) if view else 0.0
        return {
            "entropy": (float(entropy.sum()), patches),
            "relative": (float(entropy.sum()) / math.log(keys), patches),
            "own": (float(on_patches[view].sum()), patches),
            "special": (float(weights[:, special].sum()), patches),
            "first": (first, patches if view else 0),
            "mass": (float(hit[seen].sum()), patches),
            "found": (float(right[seen].sum()), count),
            "chance": (count / keys, patches),
        }


def _mean_over_views(parts: list[dict[str, tuple[float, int]]]) -> dict[str, float]:
    """Return means from the sums and counts of all views."""
    out = {}
    for name in parts[0]:
        total, count = (sum(part[name][n] for part in parts) for n in (0, 1))
        out[name] = total / count if count else 0.0
    return out


def attention(model: Any, scene: HeldOut) -> list[dict[str, Any]]:
    """Return the statistics of every global layer on one scene, with dense attention."""
    height, width = scene.images.shape[-2:]
    layout = model.layout(height, width)
    kinds = AttentionAnalysis(layout)
    matches = MatchStatistics(layout, correspondences(scene.batch))

    def measured(layer: int, q: Tensor, k: Tensor) -> BlockMap:
        matches(layer, q, k)
        return kinds(layer, q, k)

    with torch.no_grad():
        model(scene.images[None], selection=measured)
    return [{"layer": i, **kinds.layers[i], **matches.layers[i]} for i in sorted(kinds.layers)]


def by_head(scenes: list[list[dict[str, Any]]], name: str) -> np.ndarray[Any, Any]:
    """Return a statistic (L, H) of heads, the mean over scenes."""
    return np.mean([[layer[name] for layer in layers] for layers in scenes], axis=0)
