"""Report of what an accelerated model computed in its last call."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerReport:
    """Computed pairs and blocks of one global layer.

    Attributes:
        layer: Index among the global layers.
        regime: Rule of the layer, e.g. "anchors=25"; see `covis.engines.regime`.
        kept_pairs: Ordered pairs of views (self pairs included) that may attend, over all scenes.
        pairs: All ordered pairs of views, over all scenes.
        kept_blocks: Share of the patch-to-patch region pairs that were computed, over scenes and
            heads; 1 in a dense layer. A region is 128 queries by 64 keys in a pooled layer, and a
            view in the others.
    """

    layer: int
    regime: str
    kept_pairs: int
    pairs: int
    kept_blocks: float


@dataclass(frozen=True)
class Report:
    """Computed pairs and blocks of all global layers of one call.

    Attributes:
        model: Name of the model.
        selector: Selector of the call; with `auto`, the one that it chose.
        reason: Why `auto` chose it; "" if it was asked for.
        scenes: Scenes of the batch.
        views: Views of each scene.
        layers: One entry for each global layer.
    """

    model: str
    selector: str
    reason: str
    scenes: int
    views: int
    layers: tuple[LayerReport, ...]

    @property
    def kept_blocks(self) -> float:
        """Mean share over all global layers, dense ones included."""
        return sum(layer.kept_blocks for layer in self.layers) / len(self.layers)

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        lines = [
            f"{self.model}, {self.selector}{why}: {self.scenes} x {self.views} views, "
            f"{self.kept_blocks:.1%} of the blocks of {len(self.layers)} global layers"
        ]
        lines += [
            f"  layer {entry.layer:2d}: {entry.regime}, {entry.kept_pairs} of {entry.pairs} pairs, "
            f"{entry.kept_blocks:.1%} of the blocks"
            for entry in self.layers
        ]
        return "\n".join(lines)
