"""What a model hands to the exporter: its stages, each a small module with named ports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

Scope = Literal["frames", "sequence"]
VIEWS = "M"  # symbol: all views of the scene
FRAMES = "N"  # symbol: the frames of one chunk
PROBES = "K"  # symbol: queries sampled to measure attention mass


@dataclass(frozen=True)
class Port:
    """A named tensor between stages.

    Attributes:
        name: the same word in every stage, in the graph and at run time.
        shape: numbers fixed at export, or a symbol (`M` views, `N` frames of a chunk, `K` probes).
        dtype: element type of the float32 graph.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class StageModule:
    """One graph to be.

    Attributes:
        name: the stage's and the graph file's name.
        scope: `frames` (run in chunks of frames) or `sequence` (sees all views at once).
        module: takes the inputs in their order, returns the outputs in theirs (a tensor or a
            tuple). It holds the model as `self.model`, so that parameters keep official names.
        inputs: the ports it reads; those no earlier stage wrote are `images` or control inputs.
        outputs: the ports it writes.
    """

    name: str
    scope: Scope
    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
