"""pi^3 (Wang et al. 2025): views to local points and camera poses, with no reference view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from covis.engines.limits import MODEL_BLOCKS, MODEL_RATIO, MODEL_SIZE
from covis.export.models.cameras import homogeneous, rotation_from_nine, transform
from covis.export.models.config import divides, refuse, within
from covis.export.models.dinov2 import IMAGE_MEAN, IMAGE_STD, PATCH, DinoV2
from covis.export.models.dpt import tokens_to_map
from covis.export.models.frame_order import FrameOrder
from covis.export.models.layers import AttendSelected, Block
from covis.export.models.multiview import HeadStage, MultiViewModel, patch_grid
from covis.export.models.pose_mlp import PoseRegressor
from covis.export.models.rope import Rotary, rotary
from covis.export.ops import TokenLayout
from covis.export.selection.block_maps import Selection, dense_selection
from covis.export.stage import FRAMES, Port, StageModule

EPS = 1e-6
QK_NORM_EPS = 1e-5
DINO_REGISTERS = 4
REGISTERS = 5
HEAD_MLP_RATIO = 4.0
ROTATION_NUMBERS = 9


@dataclass(frozen=True)
class Pi3Config:
    """Sizes of a pi^3; the defaults are yyfz233/Pi3.

    Attributes:
        dec_embed_dim: Token width C of encoder and decoder.
        dec_num_heads: Attention heads of the decoder.
        mlp_ratio: Hidden width of the decoder's MLPs divided by C.
        dec_depth: Number of frame and global blocks together, alternating.
        head_depth: Blocks of each of the three head decoders.
        head_dim_model: Width of the head decoders.
        head_heads: Attention heads of the head decoders.
        camera_dim: Width of the camera head.
        dino_depth: Blocks of the encoder.
        dino_heads: Attention heads of the encoder.
        dino_mlp_ratio: Hidden width of the encoder's MLPs divided by C.
        img_size: Side in pixels of the images whose patch grid the position embedding is stored
            for.
    """

    dec_embed_dim: int = 1024
    dec_num_heads: int = 16
    mlp_ratio: float = 4.0
    dec_depth: int = 36
    head_depth: int = 5
    head_dim_model: int = 1024
    head_heads: int = 16
    camera_dim: int = 512
    dino_depth: int = 24
    dino_heads: int = 16
    dino_mlp_ratio: float = 4.0
    img_size: int = 518

    NOTES: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        faults = within(self, MODEL_BLOCKS, "dec_depth", "head_depth", "dino_depth")
        faults += within(self, MODEL_RATIO, "mlp_ratio", "dino_mlp_ratio")
        faults += within(self, MODEL_SIZE, "dec_embed_dim", "head_dim_model", "camera_dim")
        faults += within(self, MODEL_SIZE, "img_size")
        faults += divides(self, "dec_embed_dim", "dec_num_heads", 4)
        faults += divides(self, "head_dim_model", "head_heads", 4)
        faults += divides(self, "dec_embed_dim", "dino_heads")
        if self.dec_depth % 2:
            faults.append(f"dec_depth = {self.dec_depth} is odd: blocks come in pairs")
        if self.img_size % PATCH:
            faults.append(f"img_size = {self.img_size} is no multiple of {PATCH}")
        refuse(Pi3Config, faults)


class HeadDecoder(nn.Module):
    """A small transformer within each frame, from aggregated tokens to the features of one head."""

    def __init__(self, dim_in: int, dim: int, depth: int, heads: int, dim_out: int) -> None:
        super().__init__()
        self.head_dim = dim // heads
        self.projects = nn.Linear(dim_in, dim)
        self.blocks = nn.ModuleList(
            Block(dim, heads, HEAD_MLP_RATIO, eps=EPS, layer_scale=False) for _ in range(depth)
        )
        self.linear_out = nn.Linear(dim, dim_out)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Tokens (N, T, dim_in) of H x W images -> patch features (N, P, dim_out)."""
        rows, columns = patch_grid(height, width)
        x = self.projects(tokens)
        rotate: Rotary = rotary(rows, columns, REGISTERS, self.head_dim, x)
        for block in self.blocks:
            x = block(x, rotate)
        out: Tensor = self.linear_out(x[:, REGISTERS:])
        return out


class PixelHead(nn.Module):
    """Map every patch token to the 14 x 14 pixels of its patch."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, channels * PATCH * PATCH)

    def forward(self, features: Tensor, height: int, width: int) -> Tensor:
        """(N, P, dim) -> (N, height, width, channels)."""
        blocks = tokens_to_map(self.proj(features), *patch_grid(height, width))
        return functional.pixel_shuffle(blocks, PATCH).permute(0, 2, 3, 1)


class CameraHead(PoseRegressor):
    """Regress camera-to-world poses from the patch features of a frame."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, ROTATION_NUMBERS, nn.Linear)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(N, P, dim) -> translation (N, 3), nine free numbers of the rotation (N, 9)."""
        return self.regress(self.refine(features).mean(dim=1))


class Pi3(MultiViewModel):
    """The whole model, with the parameter names of the official checkpoint."""

    name = "pi3"
    licence = "CC BY-NC 4.0 (yyfz233/Pi3)"
    has_reference = False

    config: Pi3Config

    def __init__(self, config: Pi3Config) -> None:
        super().__init__(config)
        c, dim = config.dec_embed_dim, config.head_dim_model
        # Part of the checkpoint, so not the constants of the other models.
        self.register_buffer("image_mean", torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1))
        self.register_buffer("image_std", torch.tensor(IMAGE_STD).view(1, 3, 1, 1))
        self.image_mean: Tensor
        self.image_std: Tensor
        self.encoder = DinoV2(
            c,
            config.dino_depth,
            config.dino_heads,
            config.dino_mlp_ratio,
            grid=config.img_size // PATCH,
            registers=DINO_REGISTERS,
        )
        self.register_token = nn.Parameter(torch.zeros(1, 1, REGISTERS, c))
        self.decoder = nn.ModuleList(
            Block(c, config.dec_num_heads, config.mlp_ratio, eps=EPS, qk_norm_eps=QK_NORM_EPS)
            for _ in range(config.dec_depth)
        )

        def head_decoder(dim_out: int) -> HeadDecoder:
            return HeadDecoder(2 * c, dim, config.head_depth, config.head_heads, dim_out)

        self.point_decoder = head_decoder(dim)
        self.point_head = PixelHead(dim, 3)
        self.conf_decoder = head_decoder(dim)
        self.conf_head = PixelHead(dim, 1)
        self.camera_decoder = head_decoder(config.camera_dim)
        self.camera_head = CameraHead(config.camera_dim)

    @property
    def global_layers(self) -> int:
        return self.config.dec_depth // 2

    @property
    def global_heads(self) -> int:
        return self.config.dec_num_heads

    def layout(self, height: int, width: int) -> TokenLayout:
        patches = math.prod(patch_grid(height, width))
        return TokenLayout(frame_tokens=REGISTERS + patches, special_first=REGISTERS)

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.encoder.patch_tokens((images - self.image_mean) / self.image_std),)

    def aggregate(
        self,
        encoded: tuple[Tensor, ...],
        height: int,
        width: int,
        selection: Selection = dense_selection,
        patch_order: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return head tokens in two halves: results of the last frame block and last global block.

        (B, M, T, C) each; the heads concatenate them. A single tensor would exceed 2^31 elements at
        the largest numbers of views.
        """
        patch_tokens = encoded[0]
        batch, views, _, channels = patch_tokens.shape
        layout = self.layout(height, width)
        order = FrameOrder(patch_order, REGISTERS)
        head_dim = channels // self.config.dec_num_heads
        rotate = rotary(*patch_grid(height, width), REGISTERS, head_dim, patch_tokens)
        registers = self.register_token.expand(batch, views, -1, -1)
        x = order.apply(torch.cat([registers, patch_tokens], dim=2))
        rotate = order.rotary(rotate)
        by_frame = x
        for i in range(self.global_layers):
            x = x.reshape(-1, layout.frame_tokens, channels)
            by_frame = self.decoder[2 * i](x, rotate)
            attend = AttendSelected(selection, i, layout)
            x = by_frame.reshape(batch, -1, channels)
            x = self.decoder[2 * i + 1](x, rotate, attend)
        shape = batch, -1, layout.frame_tokens, channels
        return order.undo(by_frame.reshape(shape)), order.undo(x.reshape(shape))

    def local_points(self, halves: Sequence[Tensor], height: int, width: int) -> Tensor:
        """Compute points (N, H, W, 3) in their camera's frame from two head tokens (N, T, C)."""
        features = self.point_decoder(torch.cat(tuple(halves), dim=-1), height, width)
        x, y, log_z = self.point_head(features, height, width).unbind(-1)
        z = torch.exp(log_z)
        return torch.stack([x * z, y * z, z], dim=-1)

    def confidence(self, halves: Sequence[Tensor], height: int, width: int) -> Tensor:
        """Compute logits (N, H, W, 1) from head tokens, two of (N, T, C)."""
        features = self.conf_decoder(torch.cat(tuple(halves), dim=-1), height, width)
        logits: Tensor = self.conf_head(features, height, width)
        return logits

    def camera(self, halves: Sequence[Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
        """Compute camera-to-world translation (N, 3) and nine numbers (N, 9) from two head tokens.

        The rotation nearest to the nine numbers requires a singular value decomposition, which ONNX
        does not have. The runtime computes it on the host, in float64.
        """
        features = self.camera_decoder(torch.cat(tuple(halves), dim=-1), height, width)
        pose: tuple[Tensor, Tensor] = self.camera_head(features)
        return pose

    def encoded_ports(self, height: int, width: int, views: str) -> tuple[Port, ...]:
        patches = math.prod(patch_grid(height, width))
        return (Port("patch_tokens", (views, patches, self.config.dec_embed_dim)),)

    def aggregated_ports(self, height: int, width: int, views: str) -> tuple[Port, ...]:
        tokens = self.layout(height, width).frame_tokens
        shape = views, tokens, self.config.dec_embed_dim
        return tuple(Port(f"head_tokens_{block}", shape) for block in ("frame", "global"))

    def head_stages(self, height: int, width: int) -> tuple[StageModule, ...]:
        head_tokens = self.aggregated_ports(height, width, FRAMES)
        return (
            StageModule(
                "points",
                "frames",
                HeadStage(self, lambda model, *halves: model.local_points(halves, height, width)),
                head_tokens,
                (Port("local_points", (FRAMES, height, width, 3)),),
            ),
            StageModule(
                "confidence",
                "frames",
                HeadStage(self, lambda model, *halves: model.confidence(halves, height, width)),
                head_tokens,
                (Port("conf", (FRAMES, height, width, 1)),),
            ),
            StageModule(
                "camera",
                "frames",
                HeadStage(self, lambda model, *halves: model.camera(halves, height, width)),
                head_tokens,
                (
                    Port("translation", (FRAMES, 3)),
                    Port("rotation9", (FRAMES, ROTATION_NUMBERS)),
                ),
            ),
        )

    def forward(self, images: Tensor, selection: Selection = dense_selection) -> dict[str, Tensor]:
        """Images (B, M, 3, H, W) in [0, 1] -> the model's outputs by their published names.

        `points` and `local_points` (B, M, H, W, 3), in the world's and their camera's frame; `conf`
        (B, M, H, W, 1), logits; `camera_poses` (B, M, 4, 4), camera to world, OpenCV axes.
        """
        batch, _, _, height, width = images.shape
        encoded = tuple(
            torch.unflatten(x, 0, (batch, -1)) for x in self.encode(images.flatten(0, 1))
        )
        aggregated = self.aggregate(encoded, height, width, selection)
        tokens = [half.flatten(0, 1) for half in aggregated]
        translation, nine = self.camera(tokens, height, width)
        pose = homogeneous(rotation_from_nine(nine), translation)
        local = self.local_points(tokens, height, width)
        by_frame = {
            "points": transform(pose, local),
            "local_points": local,
            "conf": self.confidence(tokens, height, width),
            "camera_poses": pose,
        }
        return {name: torch.unflatten(x, 0, (batch, -1)) for name, x in by_frame.items()}
