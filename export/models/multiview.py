"""What the three models have in common, as the exporter and the shared stages see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from covis.export.models.dinov2 import PATCH
from covis.export.ops import TokenLayout
from covis.export.selection.block_maps import Selection, dense_selection
from covis.export.stage import Port, StageModule


def patch_grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of patches of an image whose sides are multiples of the patch."""
    return height // PATCH, width // PATCH


class MultiViewModel(nn.Module):
    """A model that encodes each view alone, lets all views attend to each other, then decodes.

    Attributes:
        name: as in the registry.
        licence: of the official weights.
        has_reference: view 0 is special; if not, the model is equivariant to the order of views.
        metric: lengths are in metres.
        ignored_keys: prefixes of checkpoint keys that this module does without.
        aliases: prefix of a key -> the official one that it stands for.
        config: a frozen dataclass.
    """

    name: ClassVar[str]
    licence: ClassVar[str]
    has_reference: ClassVar[bool]
    metric: ClassVar[bool] = False
    ignored_keys: ClassVar[tuple[str, ...]] = ()
    aliases: ClassVar[Mapping[str, str]] = {}
    config: Any

    @property
    def global_layers(self) -> int:
        """Layers whose attention sees all views."""
        raise NotImplementedError

    @property
    def global_heads(self) -> int:
        """Attention heads of those layers."""
        raise NotImplementedError

    def layout(self, height: int, width: int) -> TokenLayout:
        """Token layout of the global layers for H x W images."""
        raise NotImplementedError

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (N, 3, H, W) in [0, 1] -> what `encoded_ports` names, patch tokens first."""
        raise NotImplementedError

    def aggregate(
        self,
        encoded: tuple[Tensor, ...],
        height: int,
        width: int,
        selection: Selection = dense_selection,
        patch_order: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Encoded views (B, M, ...) each -> what `aggregated_ports` names, with a batch in front.

        Args:
            encoded: of `encode`; patch tokens row-major.
            height: of the images, in pixels.
            width: of the images, in pixels.
            selection: block map of each global layer.
            patch_order: int64 (P,): the order in which `selection` meets the patches of a frame.
                Outputs are row-major whatever it is.
        """
        raise NotImplementedError

    def encoded_ports(self, height: int, width: int, views: str) -> tuple[Port, ...]:
        """The encoder's outputs for `views` (a symbol) images."""
        raise NotImplementedError

    def aggregated_ports(self, height: int, width: int, views: str) -> tuple[Port, ...]:
        """What the heads read."""
        raise NotImplementedError

    def head_stages(self, height: int, width: int) -> tuple[StageModule, ...]:
        """The model's own stages after the aggregator."""
        raise NotImplementedError

    def forward(self, images: Tensor, selection: Selection = dense_selection) -> dict[str, Tensor]:
        """Images (B, M, 3, H, W) in [0, 1] -> outputs by their published names."""
        raise NotImplementedError


class HeadStage(nn.Module):
    """One of a model's heads as a stage.

    Args:
        model: held under this name, so that parameters keep their official ones.
        head: the model and the stage's inputs -> its outputs. It takes the model as an argument
            and does not close over it, so that a copied stage runs its own copy.
    """

    def __init__(
        self, model: MultiViewModel, head: Callable[..., Tensor | tuple[Tensor, ...]]
    ) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.head(self.model, *inputs)
