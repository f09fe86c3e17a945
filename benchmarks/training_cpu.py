"""Training speed on one CPU core: what a rendered view and a step cost, and where a step's time is.

    python benchmarks/training_cpu.py [--rounds 5] [--out FILE.json]

Seconds are CPU seconds of one thread. Every round times each row once, so that a slow moment of the
machine meets all rows; the table has medians and the ratio to the first row.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from covis.engines.system.atomic import write_file
from covis.export.training.config import Phase, TrainingConfig
from covis.export.training.rendering import Request, rendered
from covis.export.training.trainer import Trainer

KIND = "room/arc"
VIEWS = 12  # of a rendered scene


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tables = {
        "rendering, a view of 112 x 112": (renderings(), 1 / VIEWS),
        "training, a step of 24 images": (steps(), 1.0),
    }
    record = {}
    for title, (rows, unit) in tables.items():
        seconds = measured(rows, arguments.rounds)
        medians = {name: unit * statistics.median(each) for name, each in seconds.items()}
        first = next(iter(medians.values()))
        print(f"\n{title}\n")
        print("| row | CPU milliseconds | of the first |\n|---|---|---|")
        for name, median in medians.items():
            print(f"| {name} | {1000 * median:.1f} | {median / first:.2f} |")
        record[title] = {name: round(median, 5) for name, median in medians.items()}
    if arguments.out:
        write_file(arguments.out, json.dumps(record, indent=1) + "\n")


def measured(rows: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return CPU seconds by row and round; a first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for round_ in range(rounds + 1):
        for name, run in rows.items():
            started = time.process_time()
            run()
            if round_:
                seconds[name].append(time.process_time() - started)
    return seconds


def renderings() -> dict[str, Callable[[], object]]:
    """Return runs that render a scene of `VIEWS` views."""
    one = Request(KIND, 2_000_000, VIEWS, 112, supersample=1, shadows=False)
    requests = {
        "four colour rays a pixel": dataclasses.replace(one, supersample=2),
        "one": one,
        "four, with shadows": dataclasses.replace(one, supersample=2, shadows=True),
    }
    return {name: lambda request=request: rendered(request) for name, request in requests.items()}


def steps() -> dict[str, Callable[[], object]]:
    """Return runs of one step, on scenes that are in memory."""
    config = TrainingConfig(
        warm_scenes=4,
        scenes_per_step=1e-9,
        curriculum=(Phase(1.0, {KIND: 1.0}, (4, 4), (0.5, 0.5)),),
    )
    changed = {
        "as it trains": {},
        "map heads on 4 images instead of 2": {"map_frames": 4},
        "samples of 2 views": {"curriculum": (Phase(1.0, {KIND: 1.0}, (2, 2), (0.5, 0.5)),)},
        "samples of 12 views": {"curriculum": (Phase(1.0, {KIND: 1.0}, (12, 12)),)},
    }
    runs = {}
    for name, change in changed.items():
        trainer = Trainer(dataclasses.replace(config, **change))
        for step in range(8):
            trainer.pool.batch(step)  # renders the scenes
        runs[name] = trainer.advance
    return runs


if __name__ == "__main__":
    main()
