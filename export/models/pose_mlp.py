"""Pose regressor that pi^3 and MapAnything share in structure (Dong et al. 2025)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

Linear = Callable[[int, int], nn.Module]


class PoseResidual(nn.Module):
    """x + three linear maps, each followed by a ReLU; `linear` acts on tokens or on maps."""

    def __init__(self, dim: int, linear: Linear) -> None:
        super().__init__()
        self.res_conv1 = linear(dim, dim)
        self.res_conv2 = linear(dim, dim)
        self.res_conv3 = linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        branch = functional.relu(self.res_conv1(x))
        branch = functional.relu(self.res_conv2(branch))
        return x + functional.relu(self.res_conv3(branch))


class PoseRegressor(nn.Module):
    """Regress a translation and a rotation in some free form from pooled features.

    Args:
        dim: Width of the features.
        rotation: Number of values that describe the rotation.
        linear: Layer of the residual units: per token, or a 1x1 convolution.
    """

    def __init__(self, dim: int, rotation: int, linear: Linear) -> None:
        super().__init__()
        self.res_conv = nn.ModuleList(PoseResidual(dim, linear) for _ in range(2))
        self.more_mlps = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU()
        )
        self.fc_t = nn.Linear(dim, 3)
        self.fc_rot = nn.Linear(dim, rotation)

    def refine(self, x: Tensor) -> Tensor:
        """Apply the residual units."""
        for unit in self.res_conv:
            x = unit(x)
        return x

    def regress(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """(N, dim) -> translation (N, 3), rotation (N, rotation)."""
        features = self.more_mlps(pooled)
        return self.fc_t(features), self.fc_rot(features)
