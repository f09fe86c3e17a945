"""Common interface of the three models, used by the exporter and the shared stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from covis.export.models.dinov2 import PATCH
from covis.export.ops import TokenLayout
from covis.export.selection.block_maps import Selection, dense_selection
from covis.export.stage import Port, StageModule


def patch_grid(height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of patches of an image whose sides are multiples of the patch."""
    return height // PATCH, width // PATCH


class MultiViewModel(nn.Module):
    """A model that encodes each view alone, lets all views attend to each other, then decodes.

    Attributes:
        name: Name in the registry.
        licence: Licence of the official weights.
        other_licences: Licence of other published weights, by their Hugging Face id.
        has_reference: True if view 0 is the reference view; False if the model is equivariant to
            the order of views.
        metric: True if lengths are in metres.
        ignored_keys: Prefixes of checkpoint keys that this module does not use.
        aliases: Official prefix by the prefix that stands for it in a checkpoint.
        optional_parts: Stage that is left out without a part of the model, by the name of the part.
            The name is that of the submodule, and of the field of the configuration that is False
            without it.
        config: Configuration, a frozen dataclass.
    """

    name: ClassVar[str]
    licence: ClassVar[str]
    other_licences: ClassVar[Mapping[str, str]] = {}
    has_reference: ClassVar[bool]
    metric: ClassVar[bool] = False
    ignored_keys: tuple[str, ...] = ()
    aliases: ClassVar[Mapping[str, str]] = {}
    optional_parts: ClassVar[Mapping[str, str]] = {}
    config: Any

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @property
    def global_layers(self) -> int:
        """Number of layers whose attention covers all views."""
        raise NotImplementedError

    @property
    def global_heads(self) -> int:
        """Number of attention heads of the global layers."""
        raise NotImplementedError

    def layout(self, height: int, width: int) -> TokenLayout:
        """Return the token layout of the global layers for H x W images."""
        raise NotImplementedError

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Encode images (N, 3, H, W) in [0, 1] to the `encoded_ports`, patch tokens first."""
        raise NotImplementedError

    def aggregate(
        self,
        encoded: tuple[Tensor, ...],
        height: int,
        width: int,
        selection: Selection = dense_selection,
        patch_order: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Compute the `aggregated_ports`, with a batch in front, from encoded views (B, M, ...).

        Args:
            encoded: Results of `encode`; patch tokens row-major.
            height: Height of the images in pixels.
            width: Width of the images in pixels.
            selection: Returns the block map of each global layer.
            patch_order: Order in which `selection` receives the patches of a frame, int64 (P,).
                Outputs are row-major in any case.
        """
        raise NotImplementedError

    def encoded_ports(self, height: int, width: int, views: str) -> tuple[Port, ...]:
        """Return the encoder's outputs for `views` (a symbol) images."""
        raise NotImplementedError

    def aggregated_ports(self, height: int, width: int, views: str) -> tuple[Port, ...]:
        """Return the ports that the heads read."""
        raise NotImplementedError

    def head_stages(self, height: int, width: int) -> tuple[StageModule, ...]:
        """Return the model's own stages after the aggregator."""
        raise NotImplementedError

    def forward(self, images: Tensor, selection: Selection = dense_selection) -> dict[str, Tensor]:
        """Images (B, M, 3, H, W) in [0, 1] -> outputs by their published names."""
        raise NotImplementedError


class HeadStage(nn.Module):
    """One of a model's heads as a stage.

    Args:
        model: Model, stored under this name so that parameters keep their official names.
        head: Computes the outputs from the model and the stage's inputs. The model is an argument
            and no closure variable, so that a copied stage runs its own copy.
    """

    def __init__(
        self, model: MultiViewModel, head: Callable[..., Tensor | tuple[Tensor, ...]]
    ) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.head(self.model, *inputs)
