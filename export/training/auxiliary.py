"""Training aids: supervised attention, and linear heads that read tokens inside the aggregator.

A small model finds matches when its attention is supervised, and yet learns no poses, because
nothing makes its tokens carry where a match lies. Linear heads that must read this from the tokens
do; the camera head follows. All of it exists during training alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn

from covis.export.models.vggt import Vggt
from covis.export.ops import TokenLayout
from covis.export.selection.block_maps import BlockMap, dense_selection

# Numbers that the pose head reads: translation and quaternion. The field of view needs no other
# view.
POSE_NUMBERS = 7


class AuxiliaryHeads(nn.Module):
    """Linear heads on patch tokens (…, C) of some global layers.

    `flow` reads the position of a patch's match in view 0, in units of half the image; `points` the
    3D point of the patch's centre in the frame of view 0; `pose` reads translation and quaternion
    of a view from the mean of its patch tokens.

    Args:
        channels: Token width C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.flow = nn.Linear(channels, 2)
        self.points = nn.Linear(channels, 3)
        self.pose = nn.Linear(channels, POSE_NUMBERS)


@dataclass
class Recording:
    """Dense attention that keeps what the auxiliary losses need.

    As a `Selection` it records queries and keys; inside of `observed` it records tokens as well.

    Attributes:
        layout: Token layout of the model.
        attention_layers: Global layers whose first head is supervised.
        token_layers: Global layers whose tokens the auxiliary heads read.
        attention: Queries and keys (B, S, D) of the first head, after qk-norm and RoPE, by layer.
        tokens: Tokens (B, S, C) after the layer, by layer.
    """

    layout: TokenLayout
    attention_layers: frozenset[int]
    token_layers: frozenset[int]
    attention: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    tokens: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, layer: int, q: Tensor, k: Tensor) -> BlockMap:
        if layer in self.attention_layers:
            self.attention[layer] = q[:, 0], k[:, 0]
        return dense_selection(layer, q, k)

    @contextmanager
    def observed(self, model: Vggt) -> Iterator[Recording]:
        """Record the tokens of the model's runs within the context."""

        def record(layer: int, _block: nn.Module, _inputs: object, output: Tensor) -> None:
            self.tokens[layer] = output

        blocks = model.aggregator.global_blocks
        hooks = [blocks[i].register_forward_hook(partial(record, i)) for i in self.token_layers]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    def patches(self, layer: int, views: int) -> Tensor:
        """Return the patch tokens (B, M, P, C) after a layer."""
        tokens = self.tokens[layer]
        by_view = tokens.reshape(tokens.shape[0], views, -1, tokens.shape[-1])
        first = self.layout.special_first
        return by_view[:, :, first : first + self.layout.patches_per_frame]
