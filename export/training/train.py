"""Train covis-mini: `python -m covis.export.training.train --out DIR [--resume]`."""

from __future__ import annotations

import csv
import io
import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from covis.engines.errors import user_error
from covis.engines.system.atomic import write_file
from covis.export.models import build_model
from covis.export.models.vggt import Vggt
from covis.export.training import checkpoint
from covis.export.training.checkpoint import Checkpoint
from covis.export.training.config import TrainingConfig
from covis.export.training.data import Batch, Pool
from covis.export.training.initialise import initialise
from covis.export.training.losses import camera_loss, map_loss

LOG = "curves.csv"
COLUMNS = (
    "step", "seconds", "views", "learning_rate", "gradient", "loss", "camera", "depth", "points",
)  # fmt: skip


@dataclass(frozen=True)
class Losses:
    """Terms of a step's loss; the map terms are the unweighted lengths of the paper."""

    camera: Tensor
    depth: Tensor
    points: Tensor

    def total(self, config: TrainingConfig) -> Tensor:
        """The minimised sum."""
        return config.pose_weight * self.camera + self.depth + self.points


class Trainer:
    """A model with its optimiser, averages and data, at some step.

    Args:
        config: Configuration of the run.
        device: Device to train on.
        cache: Folder of rendered scenes; None: scenes are cached in memory only.
        state: Checkpoint to continue from; None starts a new run.
    """

    def __init__(
        self,
        config: TrainingConfig,
        device: torch.device | str = "cpu",
        cache: Path | None = None,
        state: Checkpoint | None = None,
    ) -> None:
        self.config, self.device = config, torch.device(device)
        self.model = cast(Vggt, build_model("vggt", config.model)).train()
        self.step, self.seconds = 0, 0.0
        if state is None:
            initialise(self.model, config.seed)
        else:
            self.model.load_state_dict(state.model)
            self.step, self.seconds = state.step, state.seconds
        self.model.to(self.device)
        self.optimiser = _optimiser(self.model, config)
        average = self.model.state_dict() if state is None else state.average
        self.average = {k: v.detach().to(self.device, copy=True) for k, v in average.items()}
        if state is not None:
            self.optimiser.load_state_dict(state.optimiser)
        self.pool = Pool(config, self.device, cache)

    def start_with(self, other: Checkpoint) -> None:
        """Load the averaged weights of another run; step, optimiser and schedule stay new."""
        if other.config.model != self.config.model:
            raise user_error("is of another model than the new run", where="start_from")
        self.model.load_state_dict(other.average)
        for name, value in self.model.state_dict().items():
            self.average[name].copy_(value)

    def advance(self) -> dict[str, float]:
        """Do one step, and return its row of the log."""
        started = time.monotonic()
        config = self.config
        rate = learning_rate(config, self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        batch = self.pool.batch(self.step)
        losses = compute_losses(self.model, batch, config, self.step)
        loss = losses.total(config)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        gradient = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip))
        # One bad sample must not destroy the run: a step without a finite gradient is skipped.
        if math.isfinite(gradient):
            self.optimiser.step()
            self._average()
        self.step += 1
        self.seconds += time.monotonic() - started
        return {
            "step": self.step,
            "seconds": round(self.seconds, 2),
            "views": batch.images.shape[1],
            "learning_rate": rate,
            "gradient": gradient,
            "loss": float(loss.detach()),
            "camera": float(losses.camera.detach()),
            "depth": float(losses.depth.detach()),
            "points": float(losses.points.detach()),
        }

    def _average(self) -> None:
        # A short average at first, because the initial weights are worthless.
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)

    def checkpoint(self) -> Checkpoint:
        """Return the present state."""
        return Checkpoint(
            self.config,
            self.step,
            self.seconds,
            self.model.state_dict(),
            self.average,
            self.optimiser.state_dict(),
        )


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Return the learning rate: linear warm-up, then a cosine to a hundredth of the peak."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    share = (step - config.warmup) / max(1, config.steps - config.warmup)
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, share))
    return config.learning_rate * (0.01 + 0.99 * cosine)


def compute_losses(model: Vggt, batch: Batch, config: TrainingConfig, step: int) -> Losses:
    """Run the model on a batch and return its losses.

    Depth and points are supervised on `map_frames` random images of the batch, cameras on all.
    """
    samples, views, _, height, width = batch.images.shape
    mixed = batch.images.is_cuda
    corrections: list[Tensor] = []
    hook = model.camera_head.pose_branch.register_forward_hook(
        lambda _module, _inputs, output: corrections.append(output)
    )
    try:
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=mixed):
            encoded = model.encode(batch.images.flatten(0, 1))
            by_sample = tuple(x.reshape(samples, views, *x.shape[1:]) for x in encoded)
            camera_token, *taps = model.aggregate(by_sample, height, width)
        model.camera_head(camera_token.float())
    finally:
        hook.remove()
    refinements = [torch.stack(corrections[: i + 1]).sum(0) for i in range(len(corrections))]

    rng = np.random.default_rng([config.seed, step, 2])
    count = min(config.map_frames, samples * views)
    frames = torch.from_numpy(rng.permutation(samples * views)[:count]).to(batch.images.device)
    chosen = [tap.flatten(0, 1)[frames].float() for tap in taps]
    depth, depth_confidence = model.depth(chosen, height, width)
    points, points_confidence = model.points(chosen, height, width)
    true_depth = batch.depth.flatten(0, 1)[frames]
    true_points = batch.points.flatten(0, 1)[frames]
    return Losses(
        camera_loss(refinements, batch.pose),
        map_loss(depth[..., None], depth_confidence, true_depth[..., None]),
        map_loss(points, points_confidence, true_points),
    )


def _optimiser(model: torch.nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW; only matrices decay."""
    tokens = ("token", "pos_embed")
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim >= 2 and not any(t in name for t in tokens)
        (decayed if matrix else free).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), eps=1e-8)


def train(
    out: Path,
    config: TrainingConfig | None = None,
    *,
    resume: bool = False,
    start_from: Path | None = None,
    device: str = "",
    threads: int = 0,
    cache: Path | None = None,
    save_minutes: float = 3.0,
    log_every: int = 20,
    stop_after: int = 0,
) -> Path:
    """Train, or continue a run; writes `checkpoint.pt` and `curves.csv` in `out`.

    Args:
        out: Folder of the run.
        config: Configuration of a new run; a resumed run keeps its own.
        resume: Continue from the checkpoint in `out`, on whatever device there is now.
        start_from: Folder of another run, of an equal model, whose averaged weights a new run (with
            a schedule of its own) starts with.
        device: `cpu` or `cuda`; empty: CUDA if available.
        threads: Number of CPU threads; 0 keeps torch's choice.
        cache: Folder to cache rendered scenes in.
        save_minutes: Minutes between checkpoints; Ctrl-C and SIGTERM also write one.
        log_every: Number of steps averaged into one row of the log.
        stop_after: End this session (not the schedule) after this number of steps; 0: never.

    Returns:
        The checkpoint's path.
    """
    if threads:
        torch.set_num_threads(threads)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not resume and (out / checkpoint.FILE).exists():
        raise user_error("holds a run already", where=out, hint="add --resume or choose another")
    state = checkpoint.load(out) if resume else None
    config = state.config if state else config or TrainingConfig()
    trainer = Trainer(config, chosen, cache, state)
    if start_from is not None and not resume:
        trainer.start_with(checkpoint.load(start_from))
    out.mkdir(parents=True, exist_ok=True)
    _trim_log(out / LOG, trainer.step)
    last = min(config.steps, trainer.step + stop_after) if stop_after else config.steps
    saved = time.monotonic()
    rows: list[dict[str, float]] = []
    with _signals_caught() as stopped:
        while trainer.step < last and not stopped:
            rows.append(trainer.advance())
            if len(rows) == log_every:
                _log(out / LOG, rows)
                rows = []
            if time.monotonic() - saved > 60 * save_minutes:
                checkpoint.save(out, trainer.checkpoint())
                saved = time.monotonic()
    if rows:
        _log(out / LOG, rows)
    return checkpoint.save(out, trainer.checkpoint())


@contextmanager
def _signals_caught() -> Iterator[list[int]]:
    """Yield a list that receives the number of the first SIGINT or SIGTERM; the second one kills.

    The previous handlers are restored at the end, because the process may continue.
    """
    caught: list[int] = []

    def note(number: int, _frame: Any) -> None:
        caught.append(number)
        signal.signal(number, signal.SIG_DFL)

    found = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in found.items():
            signal.signal(number, handler)


def _log(path: Path, rows: Sequence[dict[str, float]]) -> None:
    """Append the mean of some steps to the log, and print it."""
    mean = {k: sum(r[k] for r in rows) / len(rows) for k in COLUMNS}
    mean |= {"step": rows[-1]["step"], "seconds": rows[-1]["seconds"]}
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        writer.writerow([f"{mean[k]:.6g}" for k in COLUMNS])
    print(" ".join(f"{k} {mean[k]:.5g}" for k in COLUMNS), flush=True)


def _trim_log(path: Path, step: int) -> None:
    """Remove rows of steps that the resumed run repeats."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    earlier = rows[:1] + [row for row in rows[1:] if float(row[0]) <= step]
    kept = io.StringIO()
    csv.writer(kept).writerows(earlier)
    write_file(path, kept.getvalue())


def main(
    out: Path,
    config: Path | None = None,
    resume: bool = False,
    start_from: Path | None = None,
    device: str = "",
    threads: int = 0,
    cache: Path | None = None,
    save_minutes: float = 3.0,
    stop_after: int = 0,
) -> None:
    """Train covis-mini on synthetic scenes.

    Args:
        out: Folder of the run.
        config: JSON file with the run's configuration; default: that of the shipped model.
        resume: Continue the run in that folder.
        start_from: Folder of another run whose weights a new one starts with.
        device: Device to train on, cpu or cuda; default: cuda if available.
        threads: Number of CPU threads; 0 keeps the default.
        cache: Folder to cache rendered scenes in.
        save_minutes: Minutes between checkpoints.
        stop_after: End this session after this number of steps; 0 runs to the end of the schedule.
    """
    chosen = TrainingConfig.from_json(config.read_text()) if config else None
    train(
        out,
        chosen,
        resume=resume,
        start_from=start_from,
        device=device,
        threads=threads,
        cache=cache,
        save_minutes=save_minutes,
        stop_after=stop_after,
    )


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
