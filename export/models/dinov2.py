"""Image encoder of all three models: DINOv2 (Oquab et al. 2023), with or without registers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from covis.export.models.layers import Block, MlpKind
from covis.export.models.tables import like, table

PATCH = 14
EPS = 1e-6
IMAGE_MEAN = (0.485, 0.456, 0.406)  # ImageNet, per RGB channel
IMAGE_STD = (0.229, 0.224, 0.225)


@table
def _image_statistics() -> tuple[Tensor, ...]:
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (IMAGE_MEAN, IMAGE_STD))
    return mean.view(1, 3, 1, 1), std.view(1, 3, 1, 1)


def normalise(images: Tensor) -> Tensor:
    """Normalise images (N, 3, H, W) in [0, 1] to zero mean and unit variance over ImageNet."""
    mean, std = like(_image_statistics(), images)
    return (images - mean) / std


@table
def _resize_matrix(source: int, target: int, antialias: bool, offset: float) -> tuple[Tensor, ...]:
    """Return one axis of a bicubic resize as a (target, source) matrix.

    The matrix is the resize of unit impulses. Resizing is linear and separable, so the trained
    embedding itself can stay an input of the graph. `offset` above 0 stretches the sampling grid to
    (target + offset) / source, as early DINOv2 code did; 0 maps the ends of the axis onto each
    other.
    """
    # The impulses are side by side in one image. The other axis must have more than one sample,
    # because torch's antialiased kernel returns wrong numbers for images one pixel wide.
    impulses = torch.eye(source, dtype=torch.float64).view(1, 1, source, source)
    if offset > 0.0:
        scale = ((target + offset) / source, 1.0)
        resized = functional.interpolate(impulses, scale_factor=scale, mode="bicubic")
    else:
        resized = functional.interpolate(
            impulses, (target, source), mode="bicubic", antialias=antialias
        )
    return (resized.view(target, source),)


class PatchEmbed(nn.Module):
    """Patch tokens of images: one convolution whose stride is the patch."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=PATCH, stride=PATCH)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, H/14 * W/14, C), row-major."""
        tokens: Tensor = self.proj(images).flatten(2).transpose(1, 2)
        return tokens


class DinoV2(nn.Module):
    """A DINOv2 vision transformer over normalised images.

    Args:
        dim: Width C.
        depth: Number of blocks.
        heads: Number of attention heads.
        mlp_ratio: Hidden width of the MLP divided by C.
        grid: Side of the square patch grid of the stored position embedding (37 = 518 / 14).
        registers: Number of register tokens. None: the variant without them, which also resizes its
            position embedding by the older rule (no antialiasing, offset 0.1).
        mlp: Kind of MLP.
        final_norm: LayerNorm after the last block.
        mask_token: Create the (unused) token of masked training, which some checkpoints contain.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        *,
        grid: int,
        registers: int | None,
        mlp: MlpKind = "gelu",
        final_norm: bool = True,
        mask_token: bool = False,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.antialias, self.offset = (False, 0.1) if registers is None else (True, 0.0)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, dim))
        self.special_tokens = 1 + (registers or 0)
        if registers is not None:
            self.register_tokens = nn.Parameter(torch.zeros(1, registers, dim))
        if mask_token:
            self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.patch_embed = PatchEmbed(dim)
        self.blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio, eps=EPS, mlp=mlp) for _ in range(depth)
        )
        self.norm: nn.Module = nn.LayerNorm(dim, eps=EPS) if final_norm else nn.Identity()

    def position(self, height: int, width: int) -> Tensor:
        """Return the position embedding (1, height * width, C) of a grid, by bicubic resize."""
        stored = self.pos_embed[:, 1:]
        if height == width == self.grid:
            return stored
        rows = like(_resize_matrix(self.grid, height, self.antialias, self.offset), stored)[0]
        columns = like(_resize_matrix(self.grid, width, self.antialias, self.offset), stored)[0]
        by_row = rows @ stored.reshape(self.grid, -1)  # (height, grid * C)
        by_column = columns @ torch.unflatten(by_row, 1, (self.grid, -1))  # (height, width, C)
        return by_column.flatten(0, 1).unsqueeze(0)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) -> tokens (N, special + patches, C).

        The first `special_tokens` are the class token and the registers; patches are row-major.
        """
        height, width = images.shape[-2] // PATCH, images.shape[-1] // PATCH
        patches = self.patch_embed(images) + self.position(height, width)
        special = self.cls_token + self.pos_embed[:, :1]
        if self.special_tokens > 1:  # registers have no position
            special = torch.cat([special, self.register_tokens], dim=1)
        x = torch.cat([special.expand(patches.shape[0], -1, -1), patches], dim=1)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out

    def patch_tokens(self, images: Tensor) -> Tensor:
        """Return patch tokens alone: normalised images (N, 3, H, W) -> (N, P, C)."""
        tokens: Tensor = self(images)
        return tokens[:, self.special_tokens :]
