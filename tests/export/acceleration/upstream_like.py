"""Small modules with the structure, attribute names and signatures of the published packages.

Written from a description, not from their code. They contain what acceleration relies on (the
encoder and its output's form, the alternating blocks, the attention's attributes and arguments)
under the official parameter names, and end before the heads. Other tests compare them with the
originals' recorded numbers.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from covis.export.models.dinov2 import PATCH, DinoV2, normalise
from covis.export.models.layers import LayerScale, Mlp, SwiGlu
from covis.export.models.mapanything import MapAnything, MapAnythingConfig
from covis.export.models.pi3 import Pi3, Pi3Config
from covis.export.models.vggt import Vggt, VggtConfig


class Rope(nn.Module):
    """Rotates (B, heads, S, D) by integer positions (B, S, 2) of row and column."""

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        frequency = 100.0 ** (-torch.arange(0, half, 2, device=x.device) / half)
        turned = []
        for part, position in zip(x.chunk(2, dim=-1), positions.unbind(-1), strict=True):
            angle = (position[:, None, :, None] * frequency).to(x.dtype)
            a, b = part.chunk(2, dim=-1)
            cos, sin = angle.cos(), angle.sin()
            turned += [a * cos - b * sin, b * cos + a * sin]
        return torch.cat(turned, dim=-1)


def positions(frames: int, rows: int, columns: int, special: int) -> Tensor:
    """Return positions (frames, special + patches, 2): special tokens at 0, patches from 1."""
    patches = 1 + torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    return torch.cat([patches.new_zeros(special, 2), patches]).repeat(frames, 1, 1)


class PublishedAttention(nn.Module):
    def __init__(self, dim: int, heads: int, qk_norm: float | None) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_dim = dim // heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if qk_norm is not None:
            self.q_norm = nn.LayerNorm(self.head_dim, eps=qk_norm)
            self.k_norm = nn.LayerNorm(self.head_dim, eps=qk_norm)
        self.attn_drop = nn.Dropout(0.0)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(0.0)

    def attend(
        self, x: Tensor, rope: Rope | None, where: Tensor | None, early_cast: bool = False
    ) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.num_heads, self.head_dim)
        q, k, v = (qkv[:, :, i].transpose(1, 2) for i in range(3))
        q, k = self.q_norm(q), self.k_norm(k)
        if early_cast:
            q, k = q.to(v.dtype), k.to(v.dtype)
        if rope is not None:
            q, k = rope(q, where), rope(k, where)
        out = scaled_dot_product_attention(q, k, v)
        projected: Tensor = self.proj_drop(self.proj(out.transpose(1, 2).reshape(x.shape)))
        return projected


class VggtAttention(PublishedAttention):
    def __init__(self, dim: int, heads: int, rope: Rope) -> None:
        super().__init__(dim, heads, 1e-5)
        self.rope = rope

    def forward(self, x: Tensor, pos: Tensor | None = None) -> Tensor:
        return self.attend(x, self.rope, pos)


class Pi3Attention(PublishedAttention):
    def __init__(self, dim: int, heads: int, rope: Rope) -> None:
        super().__init__(dim, heads, 1e-5)
        self.rope = rope

    def forward(
        self, x: Tensor, attn_bias: Tensor | None = None, xpos: Tensor | None = None
    ) -> Tensor:
        return self.attend(x, self.rope, xpos, early_cast=True)


class MapAnythingAttention(PublishedAttention):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads, None)
        self.custom_positional_encoding = None
        self.use_scalable_softmax = False
        self.use_entropy_scaling = False

    def forward(self, x: Tensor, xpos: Tensor | None = None) -> Tensor:
        return self.attend(x, self.custom_positional_encoding, xpos)


class PublishedBlock(nn.Module):
    """Block whose positions have the keyword `argument`; None passes them by place."""

    def __init__(
        self,
        attention: PublishedAttention,
        dim: int,
        mlp_ratio: float,
        eps: float,
        argument: str | None,
        *,
        scaled: bool = True,
        swiglu: bool = False,
    ) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.argument = argument
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = attention
        self.ls1 = LayerScale(dim) if scaled else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = SwiGlu(dim, hidden) if swiglu else Mlp(dim, hidden)
        self.ls2 = LayerScale(dim) if scaled else nn.Identity()

    def forward(self, x: Tensor, where: Any = None) -> Tensor:
        named = {} if self.argument is None else {self.argument: where}
        placed = (where,) if self.argument is None else ()
        x = x + self.ls1(self.attn(self.norm1(x), *placed, **named))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class DictEncoder(DinoV2):
    """DINOv2 as VGGT and Pi3 call it: it returns a mapping."""

    def forward(self, images: Tensor, is_training: bool = True) -> dict[str, Tensor]:  # type: ignore[override]
        tokens = super().forward(images)
        return {
            "x_norm_clstoken": tokens[:, 0],
            "x_norm_patchtokens": tokens[:, self.special_tokens :],
        }


class LikeVggtAggregator(nn.Module):
    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        c, registers = config.embed_dim, config.num_register_tokens
        self.checkpointed = False
        self.patch_embed = DictEncoder(
            c,
            config.dino_depth,
            config.dino_heads,
            config.dino_mlp_ratio,
            grid=config.img_size // PATCH,
            registers=registers,
            mask_token=True,
        )
        self.rope = Rope()
        self.patch_start_idx = 1 + registers
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, c))
        self.register_token = nn.Parameter(torch.zeros(1, 2, registers, c))

        def blocks() -> nn.ModuleList:
            heads = config.num_heads
            return nn.ModuleList(
                PublishedBlock(VggtAttention(c, heads, self.rope), c, config.mlp_ratio, 1e-5, "pos")
                for _ in range(config.depth)
            )

        self.frame_blocks, self.global_blocks = blocks(), blocks()

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, M, 3, H, W) -> last frame and global output (B, M, T, 2C)."""
        batch, views, _, height, width = images.shape
        patches = self.patch_embed(normalise(images.flatten(0, 1)))
        if isinstance(patches, dict):
            patches = patches["x_norm_patchtokens"]
        special = torch.cat([self.camera_token, self.register_token], dim=2)
        special = torch.cat([special[:, :1], special[:, 1:].expand(-1, views - 1, -1, -1)], dim=1)
        special = special.expand(batch, -1, -1, -1).flatten(0, 1)
        x = torch.cat([special, patches], dim=1)
        frame, c = x.shape[1:]
        where = positions(batch * views, height // PATCH, width // PATCH, self.patch_start_idx)
        by_frame = x
        for frame_block, global_block in zip(self.frame_blocks, self.global_blocks, strict=True):
            by_frame = frame_block(x.reshape(-1, frame, c), where)
            joint = by_frame.reshape(batch, -1, c), where.reshape(batch, -1, 2)
            if self.checkpointed:
                x = checkpoint(global_block, *joint, use_reentrant=False)
            else:
                x = global_block(*joint)
        shape = batch, views, frame, c
        return torch.cat([by_frame.reshape(shape), x.reshape(shape)], dim=-1)


class LikeVggt(nn.Module):
    prefixes = ("aggregator.",)

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        self.aggregator = LikeVggtAggregator(config)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.aggregator(images)
        return out


class LikePi3(nn.Module):
    prefixes = ("encoder.", "decoder.", "register_token", "image_")

    def __init__(self, config: Pi3Config) -> None:
        super().__init__()
        c, heads = config.dec_embed_dim, config.dec_num_heads
        self.register_buffer("image_mean", torch.zeros(1, 3, 1, 1))
        self.register_buffer("image_std", torch.zeros(1, 3, 1, 1))
        self.encoder = DictEncoder(
            c,
            config.dino_depth,
            config.dino_heads,
            config.dino_mlp_ratio,
            grid=config.img_size // PATCH,
            registers=4,
        )
        self.rope = Rope()
        self.register_token = nn.Parameter(torch.zeros(1, 1, 5, c))
        self.decoder = nn.ModuleList(
            PublishedBlock(Pi3Attention(c, heads, self.rope), c, config.mlp_ratio, 1e-6, "xpos")
            for _ in range(config.dec_depth)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, M, 3, H, W) -> last frame and global output (B, M, T, 2C)."""
        batch, views, _, height, width = images.shape
        flat = (images.flatten(0, 1) - self.image_mean) / self.image_std
        patches = self.encoder(flat, is_training=True)["x_norm_patchtokens"]
        x = torch.cat([self.register_token[0].expand(batch * views, -1, -1), patches], dim=1)
        frame, c = x.shape[1:]
        where = positions(batch * views, height // PATCH, width // PATCH, 5)
        last = []
        for i, block in enumerate(self.decoder):
            rows = batch if i % 2 else batch * views
            x = block(x.reshape(rows, -1, c), where.reshape(rows, -1, 2))
            last = [*last[-1:], x.reshape(batch, views, frame, c)]
        return torch.cat(last, dim=-1)


class LikePi3X(LikePi3):
    """Pi3 with conditions: depth through a second encoder, and poses between blocks.

    `metric_token` marks it. The other heads and the normalisation of the conditions are left out.
    """

    prefixes = LikePi3.prefixes
    injected_after = (1, 5)  # blocks of the decoder

    def __init__(self, config: Pi3Config) -> None:
        super().__init__(config)
        c = config.dec_embed_dim
        self.metric_token = nn.Parameter(torch.zeros(1, 1, 2 * c))
        self.depth_encoder = copy.deepcopy(self.encoder)
        self.depth_emb = nn.Parameter(torch.randn(1, 1, c))
        self.pose_inject_blk = nn.ModuleList(
            PublishedAttention(c, config.dec_num_heads, 1e-5) for _ in self.injected_after
        )

    def forward(  # type: ignore[override]
        self, images: Tensor, depths: Tensor | None = None, poses: Tensor | None = None
    ) -> Tensor:
        """Images and depths (B, M, 3, H, W), poses (B, M, C) -> as Pi3."""
        batch, views, _, height, width = images.shape
        flat = (images.flatten(0, 1) - self.image_mean) / self.image_std
        patches = self.encoder(flat, is_training=True)["x_norm_patchtokens"]
        if depths is not None:
            depth = self.depth_encoder(depths.flatten(0, 1), is_training=True)
            patches = patches + depth["x_norm_patchtokens"] + self.depth_emb
        x = torch.cat([self.register_token[0].expand(batch * views, -1, -1), patches], dim=1)
        frame, c = x.shape[1:]
        where = positions(batch * views, height // PATCH, width // PATCH, 5)
        last = []
        for i, block in enumerate(self.decoder):
            rows = batch if i % 2 else batch * views
            x = block(x.reshape(rows, -1, c), where.reshape(rows, -1, 2))
            if poses is not None and i in self.injected_after:
                x = x.reshape(batch, views, frame, c)
                posed = (x[:, :, 5:] + poses[:, :, None]).flatten(1, 2)
                added = self.pose_inject_blk[self.injected_after.index(i)].attend(posed, None, None)
                x[:, :, 5:] += added.reshape(batch, views, -1, c)
            last = [*last[-1:], x.reshape(batch, views, frame, c)]
        return torch.cat(last, dim=-1)


@dataclass
class EncoderOutput:
    features: Tensor
    registers: Tensor | None


class LikeUniCeptionEncoder(nn.Module):
    def __init__(self, config: MapAnythingConfig) -> None:
        super().__init__()
        self.model = DinoV2(
            config.enc_dim,
            config.encoder_depth,
            config.enc_heads,
            4.0,
            grid=config.img_size // PATCH,
            registers=None,
            mlp="swiglu" if config.enc_swiglu else "gelu",
            final_norm=not config.v11,
        )

    def forward(self, images: Tensor) -> EncoderOutput:
        tokens = self.model(images).transpose(1, 2)
        grid = images.shape[-2] // PATCH, images.shape[-1] // PATCH
        return EncoderOutput(tokens[:, :, 1:].unflatten(2, grid), tokens[:, :, :1])


class LikeInfoSharing(nn.Module):
    def __init__(self, config: MapAnythingConfig) -> None:
        super().__init__()
        self.register_buffer("view_pos_table", torch.zeros(1, config.dim))
        self.proj_embed: nn.Module = nn.Identity()
        if config.enc_dim != config.dim:
            self.proj_embed = nn.Linear(config.enc_dim, config.dim)
        self.self_attention_blocks = nn.ModuleList(
            PublishedBlock(
                MapAnythingAttention(config.dim, config.heads),
                config.dim,
                4.0,
                1e-6,
                None,
                scaled=config.v11,
                swiglu=config.v11,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)

    def forward(self, frames: list[Tensor], scale: Tensor) -> Tensor:
        views = len(frames)
        x = self.proj_embed(torch.cat([*frames, scale], dim=1))
        batch, tokens, c = x.shape
        first = frames[0].shape[1]
        x = torch.cat([x[:, :first] + self.view_pos_table, x[:, first:]], dim=1)
        for i, block in enumerate(self.self_attention_blocks):
            if i % 2 == 0:
                x = block(x, [None] * (views + 1))
            else:
                body = block(x[:, :-1].reshape(batch * views, first, c), [None] * views)
                x = torch.cat([body.reshape(batch, tokens - 1, c), x[:, -1:]], dim=1)
        out: Tensor = self.norm(x)
        return out


class LikeMapAnything(nn.Module):
    prefixes = ("encoder.", "scale_token", "fusion_norm_layer.", "info_sharing.")

    def __init__(self, config: MapAnythingConfig) -> None:
        super().__init__()
        self.v11 = config.v11
        self.info_sharing_type = "alternating_attention"
        self.encoder = LikeUniCeptionEncoder(config)
        self.scale_token = nn.Parameter(torch.zeros(config.enc_dim))
        self.fusion_norm_layer = nn.LayerNorm(config.enc_dim, eps=1e-6)
        self.info_sharing = LikeInfoSharing(config)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, M, 3, H, W) -> normed tokens of all views and the scale token (B, S, C)."""
        batch, views = images.shape[:2]
        encoded = self.encoder(normalise(images.transpose(0, 1).flatten(0, 1)))
        patches = self.fusion_norm_layer(encoded.features.flatten(2).transpose(1, 2))
        if self.v11:
            patches = torch.cat([patches, encoded.registers.transpose(1, 2)], dim=1)
        scale = self.scale_token.expand(batch, 1, -1)
        out: Tensor = self.info_sharing(list(patches.chunk(views)), scale)
        return out


def like_published(ours: Vggt | Pi3 | MapAnything, kind: Any = None) -> nn.Module:
    """Return the published structure with the weights of one of our models, by official names.

    `kind` is another structure with these weights among its own, as Pi3X is to Pi3.
    """
    kinds: dict[type, Any] = {Vggt: LikeVggt, Pi3: LikePi3, MapAnything: LikeMapAnything}
    model = (kind or kinds[type(ours)])(ours.config)
    own = {k: v for k, v in ours.state_dict().items() if k.startswith(model.prefixes)}
    model.load_state_dict(own, strict=kind is None)
    result: nn.Module = model.eval().requires_grad_(False)
    return result
