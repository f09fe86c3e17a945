"""Stages that all models share: thin modules around a model, one graph each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from covis.engines.errors import user_error
from covis.engines.op import MOST_ELEMENTS
from covis.export.models.dinov2 import PATCH
from covis.export.models.multiview import MultiViewModel
from covis.export.options import MAX_VIEWS
from covis.export.selection.block_maps import (
    MassProbe,
    PairSelection,
    PooledSelection,
    pooled_head_groups,
)
from covis.export.stage import FRAMES, MAPS, PROBES, VIEWS, Port, StageModule


class Encoder(nn.Module):
    """Images (N, 3, H, W) -> patch tokens (N, P, C), and a token a view where the model has one."""

    def __init__(self, model: MultiViewModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.model.encode(images)


class Aggregator(nn.Module):
    """All views together, global layers restricted to maps of frame pairs."""

    def __init__(self, model: MultiViewModel, height: int, width: int) -> None:
        super().__init__()
        self.model = model
        self.size = height, width

    def forward(
        self,
        patch_tokens: Tensor,
        pair_levels: Tensor,
        layer_map: Tensor,
        probe: Tensor,
        view_token: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        measure = MassProbe(probe, self.model.layout(*self.size))
        levels = pair_levels.to(torch.int8)
        selection = PairSelection(levels, layer_map, patch_tokens.shape[1], measure)
        encoded = _one_scene(patch_tokens, view_token)
        outputs = self.model.aggregate(encoded, *self.size, selection)
        return (*(output.squeeze(0) for output in outputs), _by_layer(measure.mass))


class PooledAggregator(nn.Module):
    """All views together, global layers restricted by pooled queries and keys as well."""

    def __init__(self, model: MultiViewModel, height: int, width: int, head_groups: int) -> None:
        super().__init__()
        self.model = model
        self.size = height, width
        self.head_groups = head_groups

    def forward(
        self,
        patch_tokens: Tensor,
        pair_levels: Tensor,
        layer_map: Tensor,
        probe: Tensor,
        keep_ratio: Tensor,
        cdf: Tensor,
        patch_order: Tensor,
        view_token: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        layout = self.model.layout(*self.size)
        measure = MassProbe(probe, layout)
        selection = PooledSelection(
            pair_levels.to(torch.int8),
            layer_map,
            keep_ratio,
            cdf,
            layout,
            probe=measure,
            head_groups=self.head_groups,
        )
        encoded = _one_scene(patch_tokens, view_token)
        outputs = self.model.aggregate(encoded, *self.size, selection, patch_order)
        by_layer = _by_layer(measure.mass), _by_layer(selection.shares)
        return (*(output.squeeze(0) for output in outputs), *by_layer)


def _by_layer(rows: dict[int, list[Tensor]]) -> Tensor:
    """Concatenate the heads of each global layer, in one group or several -> (L, H)."""
    return torch.stack([torch.cat(rows[i]) if rows[i][1:] else rows[i][0] for i in sorted(rows)])


def _one_scene(*encoded: Tensor | None) -> tuple[Tensor, ...]:
    """Remove the batch dimension, because a stage processes one scene."""
    return tuple(x.unsqueeze(0) for x in encoded if x is not None)


def stages(
    model: MultiViewModel, height: int, width: int, max_views: int = MAX_VIEWS
) -> tuple[StageModule, ...]:
    """Return the stages of a model for H x W images, in running order, without the saliency stage.

    Args:
        model: Model with its weights.
        height, width: Size of the images in pixels.
        max_views: Number of views up to which no block map exceeds the limit of `export.sizes`.

    Raises:
        CovisError: a side that is no multiple of the patch.
    """
    if height <= 0 or width <= 0 or height % PATCH or width % PATCH:
        raise user_error(
            f"{height} x {width} (height x width) is no multiple of the patch, {PATCH}",
            where="image size",
            hint=f"e.g. {max(height // PATCH, 1) * PATCH} x {max(width // PATCH, 1) * PATCH}",
        )
    patches = height // PATCH * (width // PATCH)
    patch_tokens, *view_token = model.encoded_ports(height, width, VIEWS)
    pair_levels = Port("pair_levels", (MAPS, VIEWS, VIEWS), torch.int32)
    layer_map = Port("layer_map", (model.global_layers,), torch.int64)
    probe = Port("probe", (PROBES,), torch.int64)
    pooled = (
        Port("keep_ratio", (model.global_layers,)),
        Port("cdf", (model.global_layers,)),
        Port("patch_order", (patches,), torch.int64),
    )
    kept_mass = Port("kept_mass", (model.global_layers, model.global_heads))
    kept_blocks = Port("kept_blocks", (model.global_layers, model.global_heads))
    aggregated = model.aggregated_ports(height, width, VIEWS)
    return (
        StageModule(
            "encoder",
            "frames",
            Encoder(model),
            (Port("images", (FRAMES, 3, height, width)),),
            model.encoded_ports(height, width, FRAMES),
        ),
        StageModule(
            "aggregator",
            "sequence",
            Aggregator(model, height, width),
            (patch_tokens, pair_levels, layer_map, probe, *view_token),
            (*aggregated, kept_mass),
        ),
        StageModule(
            "aggregator_pooled",
            "sequence",
            PooledAggregator(
                model,
                height,
                width,
                pooled_head_groups(model.global_heads, max_views * patches, MOST_ELEMENTS),
            ),
            (patch_tokens, pair_levels, layer_map, probe, *pooled, *view_token),
            (*aggregated, kept_mass, kept_blocks),
        ),
        *model.head_stages(height, width),
    )
