"""Checkpoints of a run: written whole or not at all, read without executing code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import save as save_weights
from torch import Tensor

from covis.engines.errors import environment_error, user_error
from covis.engines.system.atomic import atomic_file
from covis.export.training.config import TrainingConfig

FILE = "checkpoint.pt"
_FIELDS = ("step", "seconds", "model", "heads", "average", "optimiser")


@dataclass(frozen=True)
class Checkpoint:
    """State after `step` steps.

    Attributes:
        config: Configuration of the run.
        step: Number of steps done.
        seconds: Time of these steps in seconds, all sessions together.
        model: Parameters by name.
        heads: Parameters of the auxiliary heads by name.
        average: Exponentially averaged parameters by name.
        optimiser: State dict of the optimiser.
    """

    config: TrainingConfig
    step: int
    seconds: float
    model: dict[str, Tensor]
    heads: dict[str, Tensor]
    average: dict[str, Tensor]
    optimiser: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Replace the folder's checkpoint; an interruption leaves the old one in place."""
    path = folder / FILE
    record = {
        "config": checkpoint.config.to_json(),
        **{k: getattr(checkpoint, k) for k in _FIELDS},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            torch.save(record, file)
    except (OSError, RuntimeError) as error:
        raise environment_error(f"cannot write the checkpoint: {error}", where=path) from error
    return path


def load(folder: Path) -> Checkpoint:
    """Read the folder's checkpoint.

    Raises:
        CovisError: there is none, or it cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        raise user_error("no such checkpoint", where=path, hint="start without --resume")
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
        config = TrainingConfig.from_json(record.pop("config"))
        return Checkpoint(config=config, **record)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise user_error(f"is no checkpoint of a training run: {reason}", where=path) from error


def export_weights(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write float16 weights under the official parameter names, as one safetensors file.

    Raises:
        CovisError: a weight that overflows in float16.
    """
    half = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in weights.items()}
    bad = [k for k, v in half.items() if not torch.isfinite(v).all()]
    if bad:
        raise user_error("does not fit float16: " + ", ".join(bad), where=path)
    with atomic_file(path) as file:
        file.write(save_weights(half, metadata=dict(metadata)))
