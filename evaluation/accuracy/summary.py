"""Summarise many scenes in one row: pooled, averaged, counted."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from covis.engines.errors import user_error
from covis.evaluation.metrics.pose import THRESHOLDS, auc_of_histogram

AVERAGED = (
    "rotation_median",
    "translation_median",
    "ate",
    "rpe_translation",
    "rpe_rotation",
    "abs_rel",
    "delta_1.25",
    "accuracy",
    "accuracy_median",
    "completeness",
    "completeness_median",
    "chamfer",
    "normals",
    "seconds",
    "kept_pairs",
    "relative_blocks",
    "kept_blocks",
    "attention_work",
)
"""Metrics whose mean over scenes is part of a summary."""


def aggregate(results: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise the records of scenes.

    AUC follows VGGT's evaluation on CO3D: the pairs of all scenes of a group are pooled, then the
    groups' AUCs are averaged; in a dataset of one group that is the AUC over all pairs. Everything
    else is the mean over the scenes for which it is defined.

    Args:
        results: Records of `evaluate_scene` or `score`, each scene once.

    Returns:
        `scenes`, `views`, `pairs`, `dropped_views`, `lost_cameras`; auc30 and so on; the means,
        None where no scene has the metric; `counts`: metric -> scenes it is the mean of, where
        those are not all; `groups`: group -> its AUCs, where there are several.

    Raises:
        CovisError: A scene occurs twice.
    """
    records = sorted(results, key=lambda record: str(record["scene"]))
    for one, other in itertools.pairwise(records):
        if one["scene"] == other["scene"]:
            raise user_error("comes twice among the results", where=str(one["scene"]))
    summary: dict[str, Any] = {"scenes": len(records)}
    for name in ("views", "pairs", "dropped_views", "lost_cameras"):
        summary[name] = sum(int(record.get(name, 0)) for record in records)
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        if "histograms" in record:
            groups[str(record["group"])].append(record)
    by_group = {name: _group(members) for name, members in sorted(groups.items())}
    for name in next(iter(by_group.values()), {}):
        summary[name] = float(np.mean([group[name] for group in by_group.values()]))
    counts = {}
    for name in AVERAGED:
        values = [record[name] for record in records if record.get(name) is not None]
        summary[name] = float(np.mean(values)) if values else None
        if 0 < len(values) < len(records):
            counts[name] = len(values)
    if counts:
        summary["counts"] = counts
    if len(by_group) > 1:
        summary["groups"] = by_group
    return summary


def _group(records: list[Mapping[str, Any]]) -> dict[str, float]:
    pairs = sum(int(record["pairs"]) for record in records)
    out = {}
    for suffix in ("", "_directed"):
        for t in THRESHOLDS:
            counts = np.sum([record[f"histograms{suffix}"][str(t)] for record in records], axis=0)
            out[f"auc{t}{suffix}"] = auc_of_histogram(counts, pairs)
    return out
