"""The tables of the mean fill experiment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from mean_fill_cases import VARIANTS

THRESHOLDS = (3, 5, 15, 30)  # degrees of AUC


def markdown(record: dict[str, Any]) -> str:
    """Return the tables of a record, or of some of its parts."""
    parts = [_scene_table(title, rows) for title, rows in record.get("scenes", {}).items()]
    sources = {**record.get("photos", {}), **record.get("heads", {})}
    if sources:
        columns = ("attention", "entropy", "pairs or blocks", "cost", *VARIANTS)
        rows = [line for name, source in sources.items() for line in _error_rows(name, source)]
        parts.append("\n".join([f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *rows]))
    return "\n".join(parts) + "\n"


def _error_rows(name: str, source: dict[str, Any]) -> list[str]:
    """Return a row for each selector and budget: the error of each variant, over all heads."""
    entropy = np.mean([e for layer in source["layers"] for e in layer["entropy"]])
    rows = []
    for label, found in _by_budget(source["cases"]).items():
        cells = [name, f"{entropy:.2f}", label, f"{100 * found['skip']['cost']:.1f} %"]
        for variant in VARIANTS:
            errors = found.get(variant, {}).get("errors")
            cells.append(f"{100 * mean_square(np.ravel(errors)):.1f} %" if errors else "")
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _by_budget(rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return rows by selector and budget, then by variant."""
    found: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        label, separator, variant = name.partition(", ")
        if separator:
            found.setdefault(label, {})[variant] = row
    return found


def _scene_table(title: str, rows: dict[str, dict[str, Any]]) -> str:
    columns = ("error of a layer", *(f"AUC@{t}" for t in THRESHOLDS))
    columns = (*columns, "rotation drift", "pose drift", "depth drift")
    lines = [f"{title}\n", f"| case | cost | {' | '.join(columns)} |", "|" + "---|" * 10]
    for name, row in rows.items():
        cells = ["0.0 %" if name == "dense" else f"{100 * mean_square(row['layers']):.1f} %"]
        cells += [f"{100 * row[f'auc{t}']:.1f}" for t in THRESHOLDS]
        cells += [f"{row['rotation_drift']:.2f}°", f"{row['pose_drift']:.2f}°"]
        cells += [f"{100 * row['depth_drift']:.2f} %"]
        cost = "100 %" if name == "dense" else f"{100 * row['cost']:.1f} %"
        lines.append(f"| {name} | {cost} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def mean_square(errors: Iterable[float]) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(np.square(list(errors)))))
