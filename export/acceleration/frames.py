"""Frames, patches and similar views of a call, read from the encoder's output."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from covis.engines.errors import user_error
from covis.export.selection.similarity import descriptor_similarity


@dataclass(frozen=True)
class Frames:
    """The frames of one call.

    Attributes:
        count: Frames of all scenes of the batch together.
        patches: Patch tokens of a frame.
        grid: Rows and columns of the patches; None if the images are not among the arguments.
        similarity: Cosine similarities (frames, frames); None if they are not needed.
    """

    count: int
    patches: int
    grid: tuple[int, int] | None
    similarity: Tensor | None = None

    def by_scene(self, scenes: int, view_major: bool) -> Tensor:
        """Return the similarities of the views of each scene (scenes, views, views)."""
        assert self.similarity is not None
        order = torch.arange(self.count, device=self.similarity.device)
        own = order.reshape(-1, scenes).T if view_major else order.reshape(scenes, -1)
        return self.similarity[own[:, :, None], own[:, None, :]]


@torch.no_grad()
def read_frames(inputs: Iterable[Any], output: Any, compare: Callable[[int], bool]) -> Frames:
    """Read the frames of an encoder call.

    Args:
        inputs: Arguments of the call; images (frames, 3, H, W) among them unless the output is a
            map.
        output: Patch tokens (frames, P, C), also as the entry `x_norm_patchtokens` of a mapping
            (VGGT, Pi3), or a map (frames, C, rows, columns) as the attribute `features`
            (MapAnything).
        compare: Returns, from the number of frames, whether to compute the similarities. They are
            computed in float32 whatever type the model computes in.

    Raises:
        CovisError: an output of another form.
    """
    tokens = output.get("x_norm_patchtokens") if isinstance(output, dict) else output
    feature_map = getattr(output, "features", None)
    if isinstance(feature_map, Tensor) and feature_map.dim() == 4:
        grid: tuple[int, int] | None = (feature_map.shape[2], feature_map.shape[3])
        tokens = feature_map.flatten(2).transpose(1, 2)
    elif isinstance(tokens, Tensor) and tokens.dim() == 3:
        grid = _grid(inputs, tokens.shape[1])
    else:
        raise user_error(
            f"the encoder gave {_describe(output)}",
            where="accelerate",
            hint="patch tokens (frames, P, C), a mapping with x_norm_patchtokens, or an object "
            "with a feature map (frames, C, rows, columns) are understood",
        )
    similar = None
    if compare(tokens.shape[0]):
        with torch.autocast(tokens.device.type, enabled=False):
            similar = descriptor_similarity(tokens.float())
    return Frames(tokens.shape[0], tokens.shape[1], grid, similar)


def _grid(inputs: Iterable[Any], patches: int) -> tuple[int, int] | None:
    """Return rows and columns of square patches, from the images that were encoded."""
    for images in inputs:
        if isinstance(images, Tensor) and images.dim() == 4:
            height, width = images.shape[2:]
            rows = round((patches * height / width) ** 0.5)
            if rows > 0 and patches % rows == 0 and rows * width == patches // rows * height:
                return rows, patches // rows
    return None


def _describe(output: object) -> str:
    if isinstance(output, dict):
        return f"a mapping of {', '.join(map(str, output)) or 'nothing'}"
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    return f"a {type(output).__name__}"
