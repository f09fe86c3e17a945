"""Block maps of one call of a model: its views, its token layout, and the blocks of each layer."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from covis.engines.bundle.patch_order import patch_order
from covis.engines.errors import user_error
from covis.engines.options import Sparsity
from covis.engines.pair_rules import pair_rules
from covis.export.acceleration.frames import Frames
from covis.export.acceleration.structure import Structure
from covis.export.models.frame_order import FrameOrder
from covis.export.ops import (
    TokenLayout,
    block_select,
    block_sparse_attention,
    farthest_first,
)
from covis.export.selection.block_maps import K_BLOCK, Q_BLOCK, BlockMap
from covis.export.selection.pair_rules import PairRules, pair_levels


class Scenes:
    """The scenes of a batch, as the global attention receives them.

    Args:
        frames: Frames of the call, from the encoder's output.
        structure: Structure of the model.
        sparsity: Selector options, with a selector other than `auto`.
        shape: Batch and tokens of the global attention's input.
        device: Device of the global attention's input.

    Attributes:
        views: Views of each scene, M.
        layout: Token layout of a scene.
        similarity: Similarities of views (B, M, M); None if no layer needs them.
        rules: Rules of the R maps of view pairs, and the map of each layer.
        pair_levels: Levels of view pairs, int8 (B, R, M, M).
        shares: Share of the region pairs computed, over scenes and heads, (), by layer.

    Raises:
        CovisError: tokens that do not match the frames of the encoder.
    """

    def __init__(
        self,
        frames: Frames,
        structure: Structure,
        sparsity: Sparsity,
        shape: tuple[int, int],
        device: torch.device,
    ) -> None:
        self.frames, self.sparsity, self.shape, self.device = frames, sparsity, shape, device
        self.views, self.layout = _layout(frames, structure, shape)
        self.shares: dict[int, Tensor] = {}
        self.similarity: Tensor | None = None
        if frames.similarity is not None:
            self.similarity = frames.by_scene(shape[0], structure.view_major).to(device)
        depth = len(structure.attentions)
        self.rules = pair_rules(sparsity, depth, self.views, structure.has_reference)
        self.pair_levels = self._pair_levels()

    def level(self, layer: int) -> Tensor:
        """Return the map of view pairs of a layer, int8 (B, 1, M, M)."""
        index = int(self.rules.layer_map[layer])
        return self.pair_levels[:, index : index + 1]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """Compute sparse attention of a layer; q, k, v and the result are (B, heads, S, D)."""
        order = self._order
        if order is not None:
            q, k, v = (x.index_select(2, order) for x in (q, k, v))
        with torch.no_grad():
            chosen = self._choose(layer, q, k)
            self.shares[layer] = (chosen.level > 0).to(torch.float32).mean()
        out = block_sparse_attention(
            q,
            k,
            v,
            chosen.level,
            layout=self.layout,
            q_block=chosen.q_block,
            k_block=chosen.k_block,
            scale=scale,
        )
        return out if order is None else out.index_select(2, torch.argsort(order))

    def _choose(self, layer: int, q: Tensor, k: Tensor) -> BlockMap:
        pairs = self.level(layer)
        if not self._pooled:
            patches = self.layout.patches_per_frame
            return BlockMap(pairs, patches, patches)
        levels = [
            block_select(
                q[scene : scene + 1],
                k[scene : scene + 1],
                pairs[scene : scene + 1],
                float(self.rules.keep_ratio[layer]),
                float(self.rules.cdf[layer]),
                layout=self.layout,
                q_block=Q_BLOCK,
                k_block=K_BLOCK,
            )
            for scene in range(q.shape[0])
        ]
        return BlockMap(torch.cat(levels), Q_BLOCK, K_BLOCK)

    @property
    def _pooled(self) -> bool:
        """True if all layers work in blocks, as in a bundle: a layer that is not pooled keeps all.

        Its blocks reach over the edges of frames, so it computes a little more than its pairs.
        """
        return any(regime.pooled for regime in self.rules.regimes)

    def _pair_levels(self) -> Tensor:
        """Return the maps of every scene, int8 (B, R, M, M)."""
        views, found = self.views, self.similarity
        if found is None:  # no rule reads it
            found = torch.zeros(self.shape[0], views, views, device=self.device)
        numbers = {name: torch.as_tensor(x) for name, x in self.rules.inputs().items()}
        rules = PairRules(*(numbers[name].to(self.device) for name in PairRules._fields))
        order, most = numbers["anchor_order"].to(self.device), int(np.max(self.rules.anchors))
        return torch.stack([pair_levels(k, farthest_first(k, order, most), rules) for k in found])

    @cached_property
    def _order(self) -> Tensor | None:
        """Return the token at each position of a reordered scene, int64 (S,); None: unchanged."""
        if not self._pooled or self.sparsity.order == "raster":
            return None
        if self.frames.grid is None:
            raise user_error(
                "the encoder was given no images whose sides fit its patches",
                where=f"order = {self.sparsity.order!r}",
                hint="use order = 'raster'",
            )
        patches = torch.from_numpy(patch_order(self.sparsity.order, *self.frames.grid))
        layout, tokens = self.layout, self.shape[1]
        in_frame = FrameOrder(patches, layout.special_first, layout.special_last).there
        assert in_frame is not None
        places = torch.arange(tokens)
        body = self.views * layout.frame_tokens
        starts = places[: body : layout.frame_tokens, None]
        return torch.cat([(starts + in_frame).flatten(), places[body:]]).to(self.device)


def _layout(
    frames: Frames, structure: Structure, shape: tuple[int, int]
) -> tuple[int, TokenLayout]:
    """Return the views of a scene and its token layout, from the numbers of frames and tokens."""
    batch, tokens = shape
    views, loose_frames = divmod(frames.count, batch)
    frame_tokens, loose_tokens = divmod(tokens - structure.trailing, max(views, 1))
    special = frame_tokens - frames.patches
    if views == 0 or loose_frames or loose_tokens or special not in structure.special:
        raise user_error(
            f"got {batch} x {tokens} tokens, but the encoder last saw {frames.count} frames "
            f"of {frames.patches} patches",
            where=f"{structure.model} global attention",
            hint="let the model's own forward run its encoder once over all views of a call",
        )
    first = special if structure.special_first else 0
    return views, TokenLayout(frame_tokens, first, special - first, structure.trailing)
