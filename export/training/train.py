"""Train covis-mini: `python -m covis.export.training.train --out DIR [--resume]`."""

from __future__ import annotations

import csv
import dataclasses
import io
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from covis.engines.errors import user_error
from covis.engines.system.atomic import write_file
from covis.export.training import checkpoint
from covis.export.training.config import GPU, TrainingConfig
from covis.export.training.objective import LOSSES
from covis.export.training.trainer import Trainer

LOG = "curves.csv"
COLUMNS = (
    "step", "seconds", "progress", "data_seconds", "views", "learning_rate", "auxiliary",
    "gradient", "loss", *LOSSES,
)  # fmt: skip


def train(
    out: Path,
    config: TrainingConfig | None = None,
    *,
    resume: bool = False,
    start_from: Path | None = None,
    device: str = "",
    threads: int = 0,
    workers: int = 0,
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
        start_from: Weights that a new run, with a schedule of its own, starts with: folder of
            another run, whose averages and auxiliary heads are taken, or a safetensors file.
        device: `cpu` or `cuda`; empty: CUDA if available.
        threads: Number of CPU threads; 0 keeps torch's choice.
        workers: Processes that render scenes ahead on the CPU; 0: the training device renders.
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
    trainer = Trainer(config, chosen, cache, state, workers)
    if start_from is not None and not resume:
        trainer.start_from(start_from)
    out.mkdir(parents=True, exist_ok=True)
    _trim_log(out / LOG, trainer.step)
    last = trainer.step + stop_after if stop_after else None
    saved = time.monotonic()
    rows: list[dict[str, float]] = []
    with closing(trainer.pool), _signals_caught() as stopped:
        while trainer.progress < 1 and trainer.step != last and not stopped:
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
    steps: int = 0,
    minutes: float = 0.0,
    device: str = "",
    threads: int = 0,
    workers: int = 0,
    cache: Path | None = None,
    save_minutes: float = 3.0,
    stop_after: int = 0,
) -> None:
    """Train covis-mini on synthetic scenes.

    Args:
        out: Folder of the run.
        config: JSON file with the run's configuration; default: that of the shipped model, with
            larger steps on a GPU.
        resume: Continue the run in that folder.
        start_from: Weights that a new run starts with: folder of another run, or a safetensors
            file.
        steps: Steps of the schedule; 0 keeps those of the configuration.
        minutes: Minutes of the schedule, instead of steps.
        device: Device to train on, cpu or cuda; default: cuda if available.
        threads: Number of CPU threads; 0 keeps the default.
        workers: Processes that render scenes ahead on the CPU; 0: the training device renders.
        cache: Folder to cache rendered scenes in.
        save_minutes: Minutes between checkpoints.
        stop_after: End this session after this number of steps; 0 runs to the end of the schedule.
    """
    chosen = TrainingConfig.from_json(config.read_text()) if config else None
    if chosen is None and not resume:
        on_gpu = device.startswith("cuda") or (not device and torch.cuda.is_available())
        chosen = GPU if on_gpu else TrainingConfig()
    if chosen is not None:
        chosen = dataclasses.replace(
            chosen, steps=steps or chosen.steps, minutes=minutes or chosen.minutes
        )
    train(
        out,
        chosen,
        resume=resume,
        start_from=start_from,
        device=device,
        threads=threads,
        workers=workers,
        cache=cache,
        save_minutes=save_minutes,
        stop_after=stop_after,
    )


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
