"""Record of the accuracy benchmark, from which the page is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from accuracy.attention import by_head
from accuracy.parts import Part
from accuracy.settings import ATTENTION
from accuracy.statistics import by_metric
from covis.engines.bundle.bundle import open_bundle
from covis.export.attention_analysis import mean_over_scenes

STATISTICS = ("entropy", "relative", "own", "special", "first", "mass", "found", "chance")
"""Statistics of `attention.MatchStatistics`."""


def record(bundle: Path, every: Sequence[Part], cells: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that the page states, as JSON values.

    Args:
        bundle: Measured bundle; the training record `covis-mini.json` is beside it.
        every: Measured parts.
        cells: Cells by part, setting and kind, from `measure`.
    """
    opened = open_bundle(bundle)
    beside = bundle.resolve().parent / "covis-mini.json"
    training = json.loads(beside.read_text()) if beside.is_file() else {}
    found: dict[str, Any] = {
        "bundle": opened.digest(),
        "torch": torch.__version__,
        "cpu_seconds": round(
            sum(
                cell["cpu_seconds"]
                for settings in cells.values()
                for kinds in settings.values()
                for each in kinds.values()
                for cell in each
            )
        ),
        "depth": opened.manifest.model.global_layers,
        "size": opened.manifest.pixel_rule.height,
        "training": provenance(training),
        "parts": {},
    }
    for part in every:
        settings = cells[part.name]
        if ATTENTION.name in settings:
            scenes = [cell for each in settings[ATTENTION.name].values() for cell in each]
            found["attention"] = {
                "kinds": list(part.kinds),
                "scenes": part.scenes,
                "views": part.views,
                "layers": _attention([cell["layers"] for cell in scenes]),
            }
            continue
        found["parts"][part.name] = {
            "views": part.views,
            "settings": {
                name: {kind: by_metric(each) for kind, each in kinds.items()}
                for name, kinds in settings.items()
            },
        }
    return found


def provenance(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page states of the training, from the training record."""
    run = training.get("training", {})
    runs = [*run.get("earlier_runs", []), run]
    curricula = [one.get("configuration", {}).get("curriculum", []) for one in runs]
    kinds = {kind for phases in curricula for phase in phases for kind in phase.get("scenes", {})}
    return {
        "parameters": training.get("parameters", 0),
        **{
            name: sum(one.get(name, 0) for one in runs)
            for name in ("steps_done", "images_seen", "hours")
        },
        "kinds": sorted(kinds),
    }


def _attention(scenes: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the statistics of attention by layer, the mean over scenes."""
    heads = {name: np.round(by_head(scenes, name), 4).tolist() for name in STATISTICS}
    return [
        {**layer, **{name: heads[name][number] for name in STATISTICS}}
        for number, layer in enumerate(mean_over_scenes(scenes))
    ]


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Write a record as JSON with a line for each setting, so that a change shows what changed."""
    head = {key: value for key, value in found.items() if key not in ("parts", "attention")}
    entries = [json.dumps(head)[1:-1]]
    if "attention" in found:
        rest = {key: value for key, value in found["attention"].items() if key != "layers"}
        layers = _lines(map(json.dumps, found["attention"]["layers"]))
        entries.append(f'"attention": {json.dumps(rest)[:-1]}, "layers": [{layers}]}}')
    parts = _lines(
        f'{json.dumps(name)}: {{"views": {part["views"]}, "settings": {{'
        + _lines(f"{json.dumps(s)}: {json.dumps(v)}" for s, v in part["settings"].items())
        + "}}"
        for name, part in found["parts"].items()
    )
    entries.append(f'"parts": {{{parts}}}')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{" + ",\n".join(entries) + "}\n")


def _lines(entries: Iterable[str]) -> str:
    return "\n" + ",\n".join(entries) + "\n"
