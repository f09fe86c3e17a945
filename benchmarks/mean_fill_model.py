"""A trained model whose global attention is replaced, and what is measured inside of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from mean_fill_cases import Case
from mean_fill_heads import Shares, normalised_entropy, tile_order
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from covis.export.models import load_model
from covis.export.models.cameras import pose_to_cameras
from covis.export.models.layers import Attend, attend_densely
from covis.export.models.rope import Rotary
from covis.export.ops import TokenLayout

LayerAttend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(index of the global layer, q, k, v) -> attended values, all (B, H, S, D)."""


class Redirected(nn.Module):
    """An attention layer of a model whose attention function is the experiment's."""

    def __init__(self, inner: nn.Module, layer: int, model: CovisMini) -> None:
        super().__init__()
        self.inner = inner
        self.attend = lambda q, k, v: model.attend(layer, q, k, v)

    def forward(
        self, x: Tensor, rotate: Rotary | None = None, attend: Attend = attend_densely
    ) -> Tensor:
        out: Tensor = self.inner(x, rotate, self.attend)
        return out


class CovisMini:
    """The model of a bundle, with a global attention that can be replaced.

    Attributes:
        attend: Attention of the global layers.
    """

    def __init__(self, bundle: Path) -> None:
        manifest = json.loads((bundle / "manifest.json").read_text())["model"]
        self.model: Any = load_model("vggt", manifest["config"], bundle / "model.safetensors")
        self.attend: LayerAttend = dense
        for layer, block in enumerate(self.model.aggregator.global_blocks):
            block.attn = Redirected(block.attn, layer, self)

    def run(
        self, images: Tensor, tokens: Tensor, attend: LayerAttend
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return extrinsics (M, 3, 4) and depth (M, H, W).

        Args:
            images: Images (M, 3, H, W) in [0, 1].
            tokens: Patch tokens (M, P, C) of them.
            attend: Attention of the global layers; it sees the patches of a frame by pieces.
        """
        height, width = images.shape[-2:]
        self.attend = attend
        order = tile_order(height // 14)
        camera, *taps = self.model.aggregate((tokens[None],), height, width, patch_order=order)
        depth, _ = self.model.depth([tap[0] for tap in taps], height, width)
        extrinsics, _ = pose_to_cameras(self.model.camera_head(camera)[0].double(), height, width)
        return extrinsics.numpy(), depth.numpy()


def dense(_layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return dense attention."""
    return scaled_dot_product_attention(q, k, v)


def in_case(case: Case, layout: TokenLayout) -> LayerAttend:
    """Return the attention of a case, the same in every layer."""
    return lambda _layer, q, k, v: case.attend(q, k, v, layout)


class Recorder:
    """Dense attention that measures the error of every case on the same inputs.

    Attributes:
        errors: Relative RMS error by head, layer after layer, by name of the case.
        statistics: Entropy by head, and shares of the energy of keys and values, by layer.
    """

    def __init__(self, every: Sequence[Case], layout: TokenLayout) -> None:
        self.every, self.layout = every, layout
        self.errors: dict[str, list[list[float]]] = {case.name: [] for case in every}
        self.statistics: list[dict[str, Any]] = []

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        exact = dense(layer, q, k, v)
        patch, _ = self.layout.split(q.shape[2], q.device)
        for case in self.every:
            found = case.attend(q, k, v, self.layout)
            self.errors[case.name].append(_relative(found, exact, patch))
        sample = patch[torch.linspace(0, len(patch) - 1, 256).long()]
        scores = q[0][:, sample] @ k[0].transpose(-1, -2) * q.shape[-1] ** -0.5
        weights = torch.softmax(scores.double(), dim=-1)
        self.statistics.append(
            {
                "entropy": [round(normalised_entropy(rows), 4) for rows in weights],
                "keys": _rounded(asdict(Shares.of(k, self.layout))),
                "values": _rounded(asdict(Shares.of(v, self.layout))),
            }
        )
        return exact

    def record(self) -> dict[str, Any]:
        """Return statistics by layer, and cost and errors of each case, as JSON values."""
        patches = self.layout.patches_per_frame
        return {
            "layers": self.statistics,
            "cases": {
                case.name: {
                    "cost": round(case.cost(patches), 5),
                    "errors": [[round(e, 5) for e in heads] for heads in self.errors[case.name]],
                }
                for case in self.every
            },
        }


def _relative(found: Tensor, exact: Tensor, rows: Tensor) -> list[float]:
    """Return |found - exact| / |exact| over some rows, by head."""
    wrong, whole = (x[0][:, rows].double() for x in (found - exact, exact))
    ratio = wrong.norm(dim=(1, 2)) / whole.norm(dim=(1, 2))
    return [float(r) for r in ratio]


def _rounded(numbers: dict[str, float]) -> dict[str, float]:
    return {name: round(number, 4) for name, number in numbers.items()}
