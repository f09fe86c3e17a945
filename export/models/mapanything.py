"""MapAnything (Keetha et al. 2025) from images alone: views to metric rays, depth and poses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from covis.export.models.cameras import homogeneous, quaternion_to_matrix, transform
from covis.export.models.dinov2 import PATCH, DinoV2, normalise
from covis.export.models.frame_order import FrameOrder
from covis.export.models.layers import AttendSelected, Block
from covis.export.models.mapanything_config import MapAnythingConfig
from covis.export.models.mapanything_heads import DenseHead, PoseHead, ScaleHead
from covis.export.models.multiview import HeadStage, MultiViewModel, patch_grid
from covis.export.ops import TokenLayout
from covis.export.selection.block_maps import Selection, dense_selection
from covis.export.stage import FRAMES, Port, StageModule

EPS = 1e-6
MLP_RATIO = 4.0


class ImageEncoder(nn.Module):
    """The image encoder, under its name in the checkpoint."""

    def __init__(self, config: MapAnythingConfig) -> None:
        super().__init__()
        self.model = DinoV2(
            config.enc_dim,
            config.encoder_depth,
            config.enc_heads,
            MLP_RATIO,
            grid=config.img_size // PATCH,
            registers=None,
            mlp="swiglu" if config.enc_swiglu else "gelu",
            final_norm=not config.v11,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) -> class token and patches (N, 1 + P, C)."""
        tokens: Tensor = self.model(images)
        return tokens


class InfoSharing(nn.Module):
    """Alternating attention over all views and one scale token, without position embeddings."""

    def __init__(self, config: MapAnythingConfig) -> None:
        super().__init__()
        self.config = config
        self.view_special = int(config.v11)
        # Sinusoids of position 0, added to the reference view only. Part of the checkpoint.
        self.register_buffer("view_pos_table", torch.tensor([0.0, 1.0]).repeat(1, config.dim // 2))
        self.view_pos_table: Tensor
        self.proj_embed: nn.Module = nn.Identity()
        if config.enc_dim != config.dim:
            self.proj_embed = nn.Linear(config.enc_dim, config.dim)
        self.self_attention_blocks = nn.ModuleList(
            Block(
                config.dim,
                config.heads,
                MLP_RATIO,
                eps=EPS,
                layer_scale=config.v11,
                mlp="swiglu" if config.v11 else "gelu",
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=EPS)

    def layout(self, patches: int) -> TokenLayout:
        """Return the layout: a view's class token follows its patches, the scale token is last."""
        special = self.view_special
        return TokenLayout(frame_tokens=patches + special, special_last=special, trailing_tokens=1)

    def forward(
        self,
        views: Tensor,
        scale: Tensor,
        selection: Selection = dense_selection,
        patch_order: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute taps and final tokens: views (B, M, T, enc_dim), scale token (B, 1, enc_dim).

        Returns:
            The two taps (B, M, T, C), the final tokens (B, M, T, C), the scale token (B, C), all
            after the norm.
        """
        batch, number, frame_tokens, _ = views.shape
        layout = self.layout(frame_tokens - self.view_special)
        order = FrameOrder(patch_order, 0, self.view_special)
        x, scale = self.proj_embed(views), self.proj_embed(scale)
        is_reference = (torch.arange(number, device=x.device) == 0).to(x.dtype)
        x = order.apply(x + is_reference.view(-1, 1, 1) * self.view_pos_table)
        shape = batch, -1, frame_tokens, self.config.dim
        taps: list[Tensor] = []
        for i, block in enumerate(self.self_attention_blocks):
            if i % 2 == 0:
                attend = AttendSelected(selection, i // 2, layout)
                joint = torch.cat([x.reshape(batch, -1, self.config.dim), scale], dim=1)
                joint = block(joint, None, attend)
                x, scale = joint[:, :-1], joint[:, -1:]
            else:
                x = block(x.reshape(-1, frame_tokens, self.config.dim))
            if i in self.config.indices:
                taps.append(order.undo(self.norm(x.reshape(shape))))
        tokens = torch.cat([x.reshape(batch, -1, self.config.dim), scale], dim=1)
        tokens = self.norm(tokens)
        final = order.undo(tokens[:, :-1].reshape(shape))
        return taps[0], taps[1], final, tokens[:, -1]


class MapAnything(MultiViewModel):
    """The images-only model, with the parameter names of the official checkpoints.

    The encoders of optional geometric inputs are not built. Without such inputs their outputs are
    multiplied by zero, and their keys are skipped when a checkpoint is loaded.
    """

    name = "mapanything"
    licence = "Apache-2.0 (facebook/map-anything-apache); CC BY-NC 4.0 (facebook/map-anything)"
    has_reference = True
    metric = True
    ignored_keys = (
        "ray_dirs_encoder.",
        "depth_encoder.",
        "depth_scale_encoder.",
        "cam_rot_encoder.",
        "cam_trans_encoder.",
        "cam_trans_scale_encoder.",
    )
    # The published module has the dense head under several names at once, and a file may use any
    # of them.
    aliases = {  # noqa: RUF012
        "dpt_feature_head.": "dense_head.0.",
        "dpt_regressor_head.": "dense_head.1.",
        **{
            f"dense_head.0.scratch.layer{i + 1}_rn.": f"dense_head.0.input_process.{i}.1."
            for i in range(4)
        },
        **{
            f"dense_head.0.scratch.layer_rn.{i}.": f"dense_head.0.input_process.{i}.1."
            for i in range(4)
        },
    }

    config: MapAnythingConfig

    def __init__(self, config: MapAnythingConfig) -> None:
        super().__init__(config)
        self.scale_token = nn.Parameter(torch.zeros(config.enc_dim))
        self.encoder = ImageEncoder(config)
        self.fusion_norm_layer = nn.LayerNorm(config.enc_dim, eps=EPS)
        self.info_sharing = InfoSharing(config)
        dims_in = (config.enc_dim, config.dim, config.dim, config.dim)
        self.dense_head = DenseHead(dims_in, config.dpt_layer_dims, config.dpt_features)
        self.pose_head = PoseHead(config.dim, config.pose_hidden)
        self.scale_head = ScaleHead(config.dim, config.scale_hidden)

    @property
    def global_layers(self) -> int:
        return (self.config.depth + 1) // 2

    @property
    def global_heads(self) -> int:
        return self.config.heads

    def layout(self, height: int, width: int) -> TokenLayout:
        return self.info_sharing.layout(math.prod(patch_grid(height, width)))

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        tokens = self.encoder(normalise(images))
        view_token, patch_tokens = tokens[:, :1], tokens[:, 1:]
        return (patch_tokens, view_token) if self.config.v11 else (patch_tokens,)

    def aggregate(
        self,
        encoded: tuple[Tensor, ...],
        height: int,
        width: int,
        selection: Selection = dense_selection,
        patch_order: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return four taps of patch tokens (B, M, P, C), the encoder's first; scale token."""
        patch_tokens, *view_tokens = encoded
        patches = patch_tokens.shape[2]
        fused = self.fusion_norm_layer(patch_tokens)
        views = torch.cat([fused, *view_tokens], dim=2)
        scale = self.scale_token.expand(views.shape[0], 1, -1)
        *taps, scale = self.info_sharing(views, scale, selection, patch_order)
        return fused, *(tap[:, :, :patches] for tap in taps), scale

    def metric_scale(self, token: Tensor) -> Tensor:
        """Return metres per unit of the other heads (..., 1) from the scale token (..., C)."""
        scale: Tensor = self.scale_head(token)
        return scale

    def dense(
        self, taps: Sequence[Tensor], scale: Tensor, height: int, width: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the maps of frames from taps (N, P, C) and scale (N or 1,).

        Returns:
            Unit rays (N, H, W, 3), metric depth along them (N, H, W, 1), confidence of at least 1
            (N, H, W), and the logit of being unambiguous (N, H, W).
        """
        raw = self.dense_head(taps, height, width).permute(0, 2, 3, 1)
        rays = nn.functional.normalize(raw[..., :3], dim=-1)
        depth = torch.exp(raw[..., 3:4]) * scale.view(-1, 1, 1, 1)
        return rays, depth, 1 + torch.exp(raw[..., 4]), raw[..., 5]

    def pose(self, tokens: Tensor, scale: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Compute camera-to-world poses from final patch tokens (N, P, C) and scale (N or 1,).

        Returns:
            Metric translation (N, 3) and unit quaternion xyzw (N, 4).
        """
        translation, quaternion = self.pose_head(tokens, height, width)
        return translation * scale.view(-1, 1), nn.functional.normalize(quaternion, dim=-1)

    def encoded_ports(self, height: int, width: int, views: str) -> tuple[Port, ...]:
        patches, c = math.prod(patch_grid(height, width)), self.config.enc_dim
        patch_tokens = Port("patch_tokens", (views, patches, c))
        return (patch_tokens, Port("view_token", (views, 1, c)))[: 1 + self.config.v11]

    def aggregated_ports(self, height: int, width: int, views: str) -> tuple[Port, ...]:
        patches, c = math.prod(patch_grid(height, width)), self.config.dim
        return (
            Port("tap0", (views, patches, self.config.enc_dim)),
            *(Port(f"tap{i}", (views, patches, c)) for i in range(1, 4)),
            Port("scale_feature", (c,)),
        )

    def head_stages(self, height: int, width: int) -> tuple[StageModule, ...]:
        *taps, scale_token = self.aggregated_ports(height, width, FRAMES)
        scale = Port("metric_scaling_factor", (1,))
        pixels = FRAMES, height, width
        return (
            StageModule(
                "scale",
                "sequence",
                HeadStage(self, MapAnything.metric_scale),
                (scale_token,),
                (scale,),
            ),
            StageModule(
                "dense",
                "frames",
                HeadStage(self, lambda model, *x: model.dense(x[:4], x[4], height, width)),
                (*taps, scale),
                (
                    Port("ray_directions", (*pixels, 3)),
                    Port("depth_along_ray", (*pixels, 1)),
                    Port("conf", pixels),
                    Port("non_ambiguous_mask_logits", pixels),
                ),
            ),
            StageModule(
                "camera",
                "frames",
                HeadStage(self, lambda model, *x: model.pose(*x, height, width)),
                (taps[3], scale),
                (Port("cam_trans", (FRAMES, 3)), Port("cam_quats", (FRAMES, 4))),
            ),
        )

    def forward(self, images: Tensor, selection: Selection = dense_selection) -> dict[str, Tensor]:
        """Images (B, M, 3, H, W) in [0, 1] -> the model's outputs by their published names.

        `pts3d` and `pts3d_cam` (B, M, H, W, 3), `ray_directions` (B, M, H, W, 3), `depth_along_ray`
        (B, M, H, W, 1), `cam_trans` (B, M, 3) and `cam_quats` (B, M, 4) xyzw, camera to world,
        `metric_scaling_factor` (B, M, 1), `conf`, `non_ambiguous_mask` and
        `non_ambiguous_mask_logits` (B, M, H, W). Lengths are in metres.
        """
        batch, views, _, height, width = images.shape
        encoded = self.encode(images.flatten(0, 1))
        encoded = tuple(torch.unflatten(x, 0, (batch, views)) for x in encoded)
        *aggregated, scale_token = self.aggregate(encoded, height, width, selection)
        taps = [tap.flatten(0, 1) for tap in aggregated]
        scale = self.metric_scale(scale_token).repeat_interleave(views, dim=0)
        rays, depth, conf, logits = self.dense(taps, scale, height, width)
        translation, quaternion = self.pose(taps[3], scale, height, width)
        in_camera = rays * depth
        pose = homogeneous(quaternion_to_matrix(quaternion), translation)
        by_frame = {
            "pts3d": transform(pose, in_camera),
            "pts3d_cam": in_camera,
            "ray_directions": rays,
            "depth_along_ray": depth,
            "cam_trans": translation,
            "cam_quats": quaternion,
            "metric_scaling_factor": scale,
            "conf": conf,
            "non_ambiguous_mask": logits > 0,
            "non_ambiguous_mask_logits": logits,
        }
        return {name: torch.unflatten(x, 0, (batch, views)) for name, x in by_frame.items()}
