"""Convert a run to the files that ship: float16 weights, and the record of their training."""

from __future__ import annotations

import csv
import json
import platform
from pathlib import Path
from typing import Any

import torch

from covis.engines.bundle.bundle import sha256_of
from covis.engines.system.atomic import write_file
from covis.export.training import checkpoint
from covis.export.training.config import SCORED_KINDS
from covis.export.training.evaluate import evaluate
from covis.export.training.objective import LOSSES
from covis.export.training.train import LOG
from covis.synthetic import HELD_OUT_SEEDS, TRAINING_SEEDS_START

NAME = "covis-mini"
LICENCE = "Apache-2.0"
_CURVE_POINTS = 100


def release(
    run: Path,
    out: Path,
    kinds: tuple[str, ...],
    *,
    scenes: int = 32,
    views: int = 8,
    earlier: tuple[Path, ...] = (),
) -> tuple[Path, Path]:
    """Write `covis-mini.safetensors` and `covis-mini.json`.

    The scores in the record are those of the written float16 file, not of the checkpoint.

    Args:
        run: Folder of a run.
        out: Folder for both files.
        kinds: Families and paths of the held-out scenes to score on, `family/path`.
        scenes: Number of scenes of each kind.
        views: Number of views of each scene.
        earlier: What this run started from (`--start-from`), first to last: folders of runs, or
            safetensors files, of which nothing more is known.

    Returns:
        The paths of the weights and of the record.
    """
    state = checkpoint.load(run)
    config = state.config
    out.mkdir(parents=True, exist_ok=True)
    weights, record = out / f"{NAME}.safetensors", out / f"{NAME}.json"
    metadata = {"model": "vggt", "config": json.dumps(dict(config.model)), "licence": LICENCE}
    checkpoint.export_weights(weights, state.average, metadata)
    parameters = sum(v.numel() for v in state.average.values())
    content: dict[str, Any] = {
        "name": NAME,
        "model": "vggt",
        "licence": LICENCE,
        "config": dict(config.model),
        "image_size": config.size,
        "parameters": parameters,
        "file": {
            "name": weights.name,
            "bytes": weights.stat().st_size,
            "sha256": sha256_of(weights),
            "dtype": "float16",
        },
        "training": {
            **_amount(state),
            "written_on": f"{platform.machine()}, torch {torch.__version__}",
            "configuration": json.loads(config.to_json()),
            "earlier_runs": [_earlier(folder) for folder in earlier],
            "training_seeds_from": TRAINING_SEEDS_START,
            "held_out_seeds": [HELD_OUT_SEEDS.start, HELD_OUT_SEEDS.stop],
            "curves": _curves(run / LOG),
        },
        "evaluation": {
            "protocol": f"{scenes} held-out scenes a kind, {views} views each, all pairs; the error"
            " of a pair is the larger of its rotation and translation angles, signs included",
            "scores": evaluate(run, kinds, scenes, views, weights),
        },
    }
    write_file(record, json.dumps(content, indent=1) + "\n")
    return weights, record


def _amount(state: checkpoint.Checkpoint) -> dict[str, Any]:
    return {
        "steps_done": state.step,
        "hours": round(state.seconds / 3600, 3),
        "images_seen": state.step * state.config.images,
    }


def _earlier(start: Path) -> dict[str, Any]:
    """Return the record of weights that another run started from."""
    if start.is_file():
        return {"file": start.name, "sha256": sha256_of(start)}
    state = checkpoint.load(start)
    configuration = json.loads(state.config.to_json())
    del configuration["model"]  # `start_from` takes only the same model
    return {**_amount(state), "configuration": configuration}


def _curves(path: Path) -> dict[str, list[float]]:
    """Return the log, thinned to about a hundred rows, by column."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    thinned = rows[:: max(1, len(rows) // _CURVE_POINTS)]
    names = ("step", "seconds", *LOSSES)
    return {name: [float(row[name]) for row in thinned] for name in names}


def main(
    run: Path,
    out: Path,
    kinds: tuple[str, ...] = SCORED_KINDS,
    scenes: int = 32,
    views: int = 8,
    earlier: tuple[Path, ...] = (),
) -> None:
    """Write the weights that ship, with their record.

    Args:
        run: Folder of a training run.
        out: Folder for both files.
        kinds: Families and paths of the held-out scenes to score on, family/path.
        scenes: Number of scenes of each kind.
        views: Number of views of each scene.
        earlier: What this run started from, first to last: folders of runs or safetensors files.
    """
    for path in release(run, out, kinds, scenes=scenes, views=views, earlier=earlier):
        print(path)


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
