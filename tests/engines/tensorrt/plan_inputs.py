"""Inputs of plans for tests without TensorRT, because the cache never reads a plan's bytes."""

from __future__ import annotations

from typing import Any

from covis.engines.system.gpu import Gpu
from covis.engines.tensorrt.plans.record import EngineOptions, PlanInputs, Range

H200 = Gpu("NVIDIA H200", (9, 0), 150_000_000_000, "580.95.05", "13.0")
TENSORRT = "10.15.1.29"


def plan_inputs(**changes: Any) -> PlanInputs:
    """Create the inputs of a plan of a mini bundle's encoder, with some fields changed."""
    fields: dict[str, Any] = {
        "stage": "encoder",
        "precision": "float32",
        "graph": "1" * 64,
        "parser_copy": 1,
        "weights": "2" * 64,
        "plugin": None,
        "tensorrt": TENSORRT,
        "cuda": H200.cuda,
        "driver_branch": H200.driver_branch,
        "gpu": H200.name,
        "compute_capability": H200.compute_capability,
        "profile": {"N": Range(min=1, opt=16, max=16)},
        "options": EngineOptions(),
    }
    return PlanInputs(**{**fields, **changes})
