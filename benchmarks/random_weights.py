"""Random weights in the full-size shape of a model, for timing export and runs without a download.

    python benchmarks/random_weights.py vggt vggt_random.safetensors [--config FILE.json]

Norms are near one, biases and matrices small, so that activations stay in the range of a trained
network. The results mean nothing; time and memory are those of the real model.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from covis.export.models import build_model
from covis.export.options import read_config
from covis.export.weights.convert import write_safetensors


def tensors(shapes: dict[str, tuple[int, ...]], seed: int) -> Iterator[Tensor]:
    """Yield one random tensor for each key, float32."""
    generator = torch.Generator().manual_seed(seed)
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if name.endswith("gamma"):
            values = values.mul_(0.02).add_(0.1)
        elif len(shape) <= 1 and name.endswith("weight"):
            values = values.mul_(0.1).add_(1.0)
        elif len(shape) <= 1:
            values = values.mul_(0.02)
        else:
            values = values.mul_(1.0 / math.sqrt(math.prod(shape[1:])))
        yield values


def main() -> None:
    """Parse the command line and write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, help="as for covis export; default: the official")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with torch.device("meta"):
        model = build_model(arguments.model, read_config(arguments.config))
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    write_safetensors(arguments.out, torch.float32, shapes, tensors(shapes, arguments.seed))


if __name__ == "__main__":
    main()
