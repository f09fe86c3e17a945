"""VGGT (Wang et al. 2025): views to cameras, depth and points; view 0 is the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from covis.engines.limits import MODEL_BLOCKS, MODEL_RATIO, MODEL_SIZE
from covis.export.models.cameras import pose_to_cameras
from covis.export.models.config import divides, refuse, within
from covis.export.models.dinov2 import PATCH, DinoV2, normalise
from covis.export.models.frame_order import FrameOrder
from covis.export.models.layers import AttendSelected, Block
from covis.export.models.multiview import HeadStage, MultiViewModel, patch_grid
from covis.export.models.rope import rotary
from covis.export.models.vggt_heads import POSE_NUMBERS, CameraHead, MapHead
from covis.export.ops import TokenLayout
from covis.export.selection.block_maps import Selection, dense_selection
from covis.export.stage import FRAMES, VIEWS, Port, StageModule

EPS = 1e-5


@dataclass(frozen=True)
class VggtConfig:
    """Sizes of a VGGT; the defaults are facebook/VGGT-1B.

    Attributes:
        embed_dim: Token width C.
        depth: Number of pairs of a frame block and a global block.
        num_heads: Attention heads of these blocks.
        mlp_ratio: Hidden width of these blocks' MLPs divided by C.
        img_size: Side in pixels of the images whose patch grid the position embedding is stored
            for.
        dino_depth, dino_heads, dino_mlp_ratio: Sizes of the encoder.
        camera_trunk_depth, camera_heads, camera_mlp_ratio: Sizes of the camera head, of width 2 C.
        dpt_features, dpt_out_channels: Widths of the map heads.
        dpt_layers: The four layers tapped for the map heads, fine to coarse.
        num_register_tokens: Register tokens of the aggregator and of the encoder.
        point_head: True if the model has a head for points; without it the bundle has no stage
            `points`, and points come from depth and cameras.
    """

    embed_dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    img_size: int = 518
    dino_depth: int = 24
    dino_heads: int = 16
    dino_mlp_ratio: float = 4.0
    camera_trunk_depth: int = 4
    camera_heads: int = 16
    camera_mlp_ratio: float = 4.0
    dpt_features: int = 256
    dpt_out_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    dpt_layers: tuple[int, int, int, int] = (4, 11, 17, 23)
    num_register_tokens: int = 4
    point_head: bool = True

    NOTES: ClassVar[tuple[str, ...]] = ("fov_bias",)

    def __post_init__(self) -> None:
        faults = within(self, MODEL_BLOCKS, "depth", "dino_depth", "camera_trunk_depth")
        faults += within(self, MODEL_RATIO, "mlp_ratio", "dino_mlp_ratio", "camera_mlp_ratio")
        faults += within(self, MODEL_SIZE, "embed_dim", "dpt_features", "dpt_out_channels")
        faults += within(self, MODEL_SIZE, "img_size", "num_register_tokens")
        faults += divides(self, "embed_dim", "num_heads", 4)
        faults += divides(self, "embed_dim", "dino_heads")
        if self.camera_heads <= 0 or 2 * self.embed_dim % self.camera_heads:
            faults.append(f"2 * embed_dim does not split into camera_heads = {self.camera_heads}")
        if self.img_size % PATCH:
            faults.append(f"img_size = {self.img_size} is no multiple of {PATCH}")
        if any(c % 4 for c in self.dpt_out_channels) or self.dpt_features % 8:
            faults.append("dpt_out_channels must be multiples of 4, dpt_features of 8")
        if any(not 0 <= layer < self.depth for layer in self.dpt_layers):
            faults.append(f"dpt_layers = {self.dpt_layers} with depth = {self.depth}")
        if len(set(self.dpt_layers)) < len(self.dpt_layers):
            faults.append(f"dpt_layers = {self.dpt_layers} are not four different layers")
        refuse(VggtConfig, faults)


class Aggregator(nn.Module):
    """The encoder and the alternating frame and global attention over its patch tokens."""

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        c, registers = config.embed_dim, config.num_register_tokens
        self.config = config
        self.special_tokens = 1 + registers
        # Slot 0 belongs to the reference view, slot 1 to every other view.
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, c))
        self.register_token = nn.Parameter(torch.zeros(1, 2, registers, c))
        self.patch_embed = DinoV2(
            c,
            config.dino_depth,
            config.dino_heads,
            config.dino_mlp_ratio,
            grid=config.img_size // PATCH,
            registers=registers,
            mask_token=True,
        )

        def blocks() -> nn.ModuleList:
            return nn.ModuleList(
                Block(c, config.num_heads, config.mlp_ratio, eps=EPS, qk_norm_eps=EPS)
                for _ in range(config.depth)
            )

        self.frame_blocks = blocks()
        self.global_blocks = blocks()

    def layout(self, patches: int) -> TokenLayout:
        """Return the positions of the special tokens in the sequence of all views."""
        special = self.special_tokens
        return TokenLayout(frame_tokens=special + patches, special_first=special)

    def special(self, views: int) -> Tensor:
        """Return camera and register tokens (views, S, C), for any number of views, also one."""
        slots = torch.cat([self.camera_token, self.register_token], dim=2).squeeze(0)
        return slots.index_select(0, torch.arange(views, device=slots.device).clamp(max=1))

    def forward(
        self,
        patch_tokens: Tensor,
        height: int,
        width: int,
        selection: Selection = dense_selection,
        patch_order: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Compute camera tokens (B, M, 2C) and four taps in two halves from patch tokens (B, M, P,
        C).

        The arguments are those of MultiViewModel.aggregate. A tap is stored as two tensors (B, M,
        P, C), one from the frame block and one from the global block of a layer; the map heads
        concatenate them. A single tensor would exceed 2^31 elements at the largest numbers of
        views.
        """
        batch, views, patches, channels = patch_tokens.shape
        special = self.special_tokens
        head_dim = channels // self.config.num_heads
        order = FrameOrder(patch_order, special)
        rotate = rotary(*patch_grid(height, width), special, head_dim, patch_tokens)
        rotate = order.rotary(rotate)
        x = self.special(views).unsqueeze(0).expand(batch, -1, -1, -1)
        x = order.apply(torch.cat([x, patch_tokens], dim=2))
        tokens, layout = special + patches, self.layout(patches)
        taps: dict[int, tuple[Tensor, Tensor]] = {}
        halves = x, x
        for i in range(self.config.depth):
            by_frame = self.frame_blocks[i](x.reshape(-1, tokens, channels), rotate)
            attend = AttendSelected(selection, i, layout)
            x = self.global_blocks[i](by_frame.reshape(batch, -1, channels), rotate, attend)
            x = x.reshape(batch, -1, tokens, channels)
            halves = by_frame.reshape(batch, -1, tokens, channels), x
            if i in self.config.dpt_layers:
                first, second = (order.undo(half)[:, :, special:] for half in halves)
                taps[i] = first, second
        camera = torch.cat([half[:, :, 0] for half in halves], dim=-1)
        return camera, *(half for i in self.config.dpt_layers for half in taps[i])


class Vggt(MultiViewModel):
    """The whole model, with the parameter names of the official checkpoint.

    The track head is not built: its keys are skipped when a checkpoint is loaded. So are those of
    the point head, where the configuration leaves it out.
    """

    name = "vggt"
    licence = "VGGT licence, non-commercial (facebook/VGGT-1B)"
    other_licences: ClassVar[Mapping[str, str]] = {
        "facebook/VGGT-1B-Commercial": "VGGT acceptable-use licence (vggt-aup-license)"
    }
    has_reference = True
    ignored_keys: tuple[str, ...] = ("track_head.",)
    optional_parts: ClassVar[Mapping[str, str]] = {"point_head": "points"}
    config: VggtConfig

    def __init__(self, config: VggtConfig) -> None:
        super().__init__(config)
        self.aggregator = Aggregator(config)
        c = 2 * config.embed_dim
        self.camera_head = CameraHead(
            c, config.camera_trunk_depth, config.camera_heads, config.camera_mlp_ratio
        )
        dims, features = config.dpt_out_channels, config.dpt_features
        self.point_head = MapHead(c, dims, features, outputs=4) if config.point_head else None
        self.depth_head = MapHead(c, dims, features, outputs=2)
        if self.point_head is None:
            self.ignored_keys = (*self.ignored_keys, "point_head.")

    @property
    def global_layers(self) -> int:
        return self.config.depth

    @property
    def global_heads(self) -> int:
        return self.config.num_heads

    def layout(self, height: int, width: int) -> TokenLayout:
        return self.aggregator.layout(math.prod(patch_grid(height, width)))

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.aggregator.patch_embed.patch_tokens(normalise(images)),)

    def aggregate(
        self,
        encoded: tuple[Tensor, ...],
        height: int,
        width: int,
        selection: Selection = dense_selection,
        patch_order: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return camera tokens (B, M, 2C) and the halves of four taps, eight of (B, M, P, C)."""
        outputs: tuple[Tensor, ...] = self.aggregator(
            encoded[0], height, width, selection, patch_order
        )
        return outputs

    def encoded_ports(self, height: int, width: int, views: str) -> tuple[Port, ...]:
        patches = math.prod(patch_grid(height, width))
        return (Port("patch_tokens", (views, patches, self.config.embed_dim)),)

    def aggregated_ports(self, height: int, width: int, views: str) -> tuple[Port, ...]:
        patches, c = math.prod(patch_grid(height, width)), self.config.embed_dim
        names = (f"tap{i}_{block}" for i in range(4) for block in ("frame", "global"))
        taps = (Port(name, (views, patches, c)) for name in names)
        return Port("camera_token", (views, 2 * c)), *taps

    def head_stages(self, height: int, width: int) -> tuple[StageModule, ...]:
        camera_token, *_ = self.aggregated_ports(height, width, VIEWS)
        _, *taps = self.aggregated_ports(height, width, FRAMES)
        stages = (
            StageModule(
                "camera",
                "sequence",
                HeadStage(
                    self, lambda model, token: model.camera_head(token.unsqueeze(0)).squeeze(0)
                ),
                (camera_token,),
                (Port("pose_enc", (VIEWS, POSE_NUMBERS)),),
            ),
            StageModule(
                "depth",
                "frames",
                HeadStage(self, lambda model, *taps: model.depth(taps, height, width)),
                tuple(taps),
                tuple(Port(n, (FRAMES, height, width)) for n in ("depth", "depth_conf")),
            ),
        )
        if self.point_head is None:
            return stages
        return (
            *stages,
            StageModule(
                "points",
                "frames",
                HeadStage(self, lambda model, *taps: model.points(taps, height, width)),
                tuple(taps),
                (
                    Port("world_points", (FRAMES, height, width, 3)),
                    Port("world_points_conf", (FRAMES, height, width)),
                ),
            ),
        )

    def depth(self, taps: Sequence[Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
        """Compute z-depth and confidence of at least 1, (N, H, W), from halves of taps."""
        raw = self.depth_head(_joined(taps), height, width)
        return torch.exp(raw[:, 0]), 1 + torch.exp(raw[:, 1])

    def points(self, taps: Sequence[Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
        """Compute points (N, H, W, 3) in view 0's frame, and confidence, from halves of taps."""
        assert self.point_head is not None
        raw = self.point_head(_joined(taps), height, width).permute(0, 2, 3, 1)
        return inverse_log(raw[..., :3]), 1 + torch.exp(raw[..., 3])

    def forward(self, images: Tensor, selection: Selection = dense_selection) -> dict[str, Tensor]:
        """Images (B, M, 3, H, W) in [0, 1] -> the model's outputs by their published names.

        `pose_enc` (B, M, 9); `depth` (B, M, H, W, 1), `depth_conf` (B, M, H, W); with a point head
        `world_points` (B, M, H, W, 3), `world_points_conf` (B, M, H, W); `extrinsic` (B, M, 3, 4)
        world to camera; `intrinsic` (B, M, 3, 3) in pixels.
        """
        batch, _, _, height, width = images.shape
        encoded = tuple(
            torch.unflatten(x, 0, (batch, -1)) for x in self.encode(images.flatten(0, 1))
        )
        camera_tokens, *taps = self.aggregate(encoded, height, width, selection)
        frames = [tap.flatten(0, 1) for tap in taps]
        depth, depth_conf = self.depth(frames, height, width)
        pose = self.camera_head(camera_tokens)
        extrinsic, intrinsic = pose_to_cameras(pose, height, width)
        by_frame = {"depth": depth.unsqueeze(-1), "depth_conf": depth_conf}
        if self.point_head is not None:
            points = self.points(frames, height, width)
            by_frame |= zip(("world_points", "world_points_conf"), points, strict=True)
        return {
            "pose_enc": pose,
            "extrinsic": extrinsic,
            "intrinsic": intrinsic,
            **{name: torch.unflatten(value, 0, (batch, -1)) for name, value in by_frame.items()},
        }


def _joined(halves: Sequence[Tensor]) -> list[Tensor]:
    """Concatenate the frame half and the global half of each tap, (N, P, C) each -> (N, P, 2C)."""
    pairs = zip(halves[::2], halves[1::2], strict=True)
    return [torch.cat(pair, dim=-1) for pair in pairs]


def inverse_log(y: Tensor) -> Tensor:
    """Compute sign(y) (exp |y| - 1) in a form without cancellation near 0, with operators of ONNX.

    exp(a) - 1 = 2 exp(a / 2) sinh(a / 2), and sinh is odd.
    """
    return 2 * torch.exp(y.abs() / 2) * torch.sinh(y / 2)
