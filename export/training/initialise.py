"""Initial weights for training from scratch, without a pretrained encoder."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from covis.export.models.layers import LayerScale
from covis.export.models.vggt import Vggt

# The official value for training from a pretrained encoder is 0.01. A shallow model without
# pretraining learns sooner if its branches contribute from the first step.
LAYER_SCALE = 0.5


def initialise(model: Vggt, seed: int) -> None:
    """Fill a model with random weights, in place.

    Matrices preserve the variance of their input. The camera head starts at the identity pose with
    a field of view of one radian. The position embedding is sinusoidal, so that positions in the
    image differ from the start.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(parameter: Tensor, std: float) -> None:
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                fan_in = module.weight[0].numel()
                if isinstance(module, nn.ConvTranspose2d):
                    fan_in = module.in_channels
                convolution = isinstance(module, nn.Conv2d) and module.kernel_size[0] == 3
                normal(module.weight, (2.0 if convolution else 0.8) ** 0.5 * fan_in**-0.5)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, LayerScale):
                module.gamma.fill_(LAYER_SCALE)
        aggregator = model.aggregator
        encoder = aggregator.patch_embed
        for token in (aggregator.camera_token, aggregator.register_token):
            normal(token, 0.5)
        for token in (encoder.cls_token, encoder.register_tokens):
            normal(token, 0.5)
        encoder.mask_token.zero_()
        encoder.pos_embed.copy_(_sinusoidal(encoder.grid, encoder.pos_embed.shape[-1]))
        model.camera_head.empty_pose_tokens.zero_()
        last = model.camera_head.pose_branch.fc2
        normal(last.weight, 0.02 * last.in_features**-0.5)
        # The four refinements are summed.
        last.bias.copy_(torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 1, 1]) / 4)
        assert model.point_head is not None
        for head in (model.depth_head, model.point_head):
            normal(cast(nn.Conv2d, head.scratch.output_conv2[2]).weight, 0.002)


def _sinusoidal(grid: int, channels: int) -> Tensor:
    """Return (1, 1 + grid^2, channels): zeros for the class token, then sinusoids of y and x."""
    quarter = channels // 4
    omega = 10.0 ** (-torch.arange(quarter) / quarter * 1.5) * 3.0
    y, x = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    waves = []
    for coordinate in (y, x):
        phase = coordinate.flatten()[:, None] * omega
        waves += [phase.sin(), phase.cos()]
    patches = torch.cat(waves, dim=1)
    rest = torch.zeros(grid * grid, channels - patches.shape[1])
    patches = torch.cat([patches, rest], dim=1) * 0.5
    return torch.cat([torch.zeros(1, channels), patches]).unsqueeze(0)
