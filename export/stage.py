"""Stages that a model gives to the exporter: small modules with named ports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

Scope = Literal["frames", "sequence"]
VIEWS = "M"  # symbol: all views of the scene
FRAMES = "N"  # symbol: the frames of one chunk
PROBES = "K"  # symbol: queries sampled to measure attention mass
MAPS = "R"  # symbol: maps of view pairs, one for each regime of the schedule

OnProgress = Callable[[str], None]
"""Called with one line of text at the start or end of each step of an export."""


@dataclass(frozen=True)
class Port:
    """A named tensor between stages.

    Attributes:
        name: Name of the tensor, the same in every stage, in the graph and at run time.
        shape: Dimensions: numbers fixed at export, or a symbol (`M` views, `N` frames of a chunk,
            `K` probes, `R` maps of view pairs).
        dtype: Element type in the float32 graph.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class StageModule:
    """One stage of a model, which becomes one graph.

    Attributes:
        name: Name of the stage and, with `.onnx`, of its graph file.
        scope: `frames` (runs in chunks of frames) or `sequence` (needs all views at once).
        module: Module that takes the inputs in order and returns the outputs in order, as a tensor
            or a tuple. It stores the model as `self.model`, so that parameters keep their official
            names.
        inputs: Ports that the stage reads. Ports that no earlier stage writes are `images` or
            control inputs.
        outputs: Ports that the stage writes.
    """

    name: str
    scope: Scope
    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
