"""A model in training: its optimiser, averaged weights and data, advanced step by step."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from covis.engines.errors import user_error
from covis.export.models import build_model
from covis.export.models.vggt import Vggt
from covis.export.training import checkpoint
from covis.export.training.auxiliary import AuxiliaryHeads
from covis.export.training.checkpoint import Checkpoint
from covis.export.training.config import TrainingConfig
from covis.export.training.data import Pool
from covis.export.training.initialise import initialise
from covis.export.training.objective import auxiliary_weight, compute_losses


class Trainer:
    """A model with its optimiser, averages and data, at some step.

    Args:
        config: Configuration of the run.
        device: Device to train on.
        cache: Folder of rendered scenes; None: scenes are cached in memory only.
        state: Checkpoint to continue from; None starts a new run.
        workers: Processes that render scenes ahead; 0: scenes are rendered when they are needed.
    """

    def __init__(
        self,
        config: TrainingConfig,
        device: torch.device | str = "cpu",
        cache: Path | None = None,
        state: Checkpoint | None = None,
        workers: int = 0,
    ) -> None:
        self.config, self.device = config, torch.device(device)
        self.model = cast(Vggt, build_model("vggt", config.model)).train()
        self.heads = AuxiliaryHeads(self.model.config.embed_dim)
        self.step, self.seconds = 0, 0.0
        if state is None:
            initialise(self.model, config.seed)
            initialise_heads(self.heads, config.seed)
        else:
            self.model.load_state_dict(state.model)
            self.heads.load_state_dict(state.heads)
            self.step, self.seconds = state.step, state.seconds
        self.model.to(self.device)
        self.heads.to(self.device)
        self.optimiser = _optimiser(self.model, self.heads, config)
        average = self.model.state_dict() if state is None else state.average
        self.average = {k: v.detach().to(self.device, copy=True) for k, v in average.items()}
        if state is not None:
            self.optimiser.load_state_dict(state.optimiser)
        self.pool = Pool(config, self.device, cache, workers)

    @property
    def progress(self) -> float:
        """Position in the schedule, 0 to 1."""
        return self.config.progress(self.step, self.seconds)

    def start_from(self, where: Path) -> None:
        """Load the weights of another run; step, optimiser and schedule stay new.

        Args:
            where: Folder of the run, whose averaged weights and auxiliary heads are taken, or a
                safetensors file of released weights, which has no heads.

        Raises:
            CovisError: It is neither, or the weights belong to a model of other sizes.
        """
        try:
            if where.is_dir():
                state = checkpoint.load(where)
                self.model.load_state_dict(state.average)
                self.heads.load_state_dict(state.heads)
            else:
                self.model.load_state_dict({k: v.float() for k, v in load_file(where).items()})
        except (OSError, SafetensorError) as error:
            raise user_error(
                "is neither the folder of a run nor a safetensors file", where=where
            ) from error
        except RuntimeError as error:
            raise user_error("is of another model than the new run", where=where) from error
        for name, value in self.model.state_dict().items():
            self.average[name].copy_(value)

    def advance(self) -> dict[str, float]:
        """Do one step, and return its row of the log."""
        started = time.monotonic()
        config, progress = self.config, self.progress
        rate = learning_rate(config, self.step, progress)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        batch = self.pool.batch(self.step, progress)
        waited = time.monotonic() - started
        losses = compute_losses(self.model, self.heads, batch, config, self.step)
        loss = losses.total(config, progress)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        gradient = float(torch.nn.utils.clip_grad_norm_(parameters, config.clip))
        # One bad sample must not destroy the run: a step without a finite gradient is skipped.
        if math.isfinite(gradient):
            self.optimiser.step()
            self._average()
        self.step += 1
        self.seconds += time.monotonic() - started
        return {
            "step": self.step,
            "seconds": round(self.seconds, 2),
            "progress": progress,
            "data_seconds": waited,
            "views": batch.images.shape[1],
            "learning_rate": rate,
            "auxiliary": auxiliary_weight(config, progress),
            "gradient": gradient,
            "loss": float(loss.detach()),
            **losses.record(),
        }

    def _average(self) -> None:
        # A short average at first, because the initial weights are worthless.
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            present = self.model.state_dict()
            torch._foreach_lerp_(
                list(self.average.values()), [present[name] for name in self.average], 1 - decay
            )

    def checkpoint(self) -> Checkpoint:
        """Return the present state."""
        return Checkpoint(
            self.config,
            self.step,
            self.seconds,
            self.model.state_dict(),
            self.heads.state_dict(),
            self.average,
            self.optimiser.state_dict(),
        )


def learning_rate(config: TrainingConfig, step: int, progress: float) -> float:
    """Return the learning rate: linear warm-up, then a cosine to a hundredth of the peak."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    cosine = 0.5 + 0.5 * math.cos(math.pi * progress)
    return config.learning_rate * warm * (0.01 + 0.99 * cosine)


def initialise_heads(heads: AuxiliaryHeads, seed: int) -> None:
    """Fill the auxiliary heads with small random weights, in place."""
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in heads.parameters():
            std = 0.1 * parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.0
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def _optimiser(
    model: torch.nn.Module, heads: AuxiliaryHeads, config: TrainingConfig
) -> torch.optim.AdamW:
    """Return AdamW; only matrices of the model decay."""
    tokens = ("token", "pos_embed")
    decayed: list[Tensor] = []
    free: list[Tensor] = list(heads.parameters())
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim >= 2 and not any(t in name for t in tokens)
        (decayed if matrix else free).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(0.9, 0.95), eps=1e-8, fused=True
    )
