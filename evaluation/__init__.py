"""Accuracy against ground truth: metrics, dataset readers, and evaluations that can be resumed.

Everything is imported at its first use, so that the metrics, which need numpy alone, do not load a
runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from covis.evaluation.accuracy.scoring import METRICS, evaluate_scene, score
    from covis.evaluation.accuracy.summary import aggregate
    from covis.evaluation.datasets import open_dataset
    from covis.evaluation.datasets.truth import Dataset, GroundTruth, SceneRef

__all__ = [
    "METRICS",
    "Dataset",
    "GroundTruth",
    "SceneRef",
    "aggregate",
    "evaluate_scene",
    "open_dataset",
    "score",
]

_HOME = {
    "METRICS": "accuracy.scoring",
    "Dataset": "datasets.truth",
    "GroundTruth": "datasets.truth",
    "SceneRef": "datasets.truth",
    "aggregate": "accuracy.summary",
    "evaluate_scene": "accuracy.scoring",
    "open_dataset": "datasets",
    "score": "accuracy.scoring",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'covis.evaluation' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"covis.evaluation.{_HOME[name]}"), name)
