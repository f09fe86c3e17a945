"""Repeat the proof of a plan from its recorded layer information, without a GPU."""

from __future__ import annotations

import hashlib
from pathlib import Path

from covis.engines.bundle.bundle import Bundle
from covis.engines.errors import user_error
from covis.engines.graphs.shapes import tensor_facts
from covis.engines.limits import PLAN_LAYERS
from covis.engines.system.regular import read_regular
from covis.engines.tensorrt.parser_graph.parser_graph import for_tensorrt
from covis.engines.tensorrt.plans.profiles import stage_shapes
from covis.engines.tensorrt.plans.record import BUILD_HINT, PlanRecord
from covis.engines.tensorrt.proof.layers import parse_layers
from covis.engines.tensorrt.proof.report import EngineReport, report


def plan_report(bundle: Bundle, record: PlanRecord, folder: Path) -> EngineReport:
    """Compare a plan's recorded layers with the bundle's graph.

    Raises:
        CovisError: the plan was built from another graph, or its layers were not recorded or have
            changed since.
    """
    manifest = bundle.manifest
    digests = {file.path: file.sha256 for file in manifest.files}
    stages = {stage.name: stage for stage in manifest.stages}
    stage = stages.get(record.stage)
    if stage is None or digests[stage.graph] != record.graph:
        raise user_error("it was built from another graph", where=record.file, hint=BUILD_HINT)
    if record.layers is None:
        raise user_error("its layers were not recorded", where=record.file, hint=BUILD_HINT)
    name, digest = record.layers
    path = folder / name
    if "/" in name:
        raise user_error("is in another folder", where=path, hint=BUILD_HINT)
    data = read_regular(path, PLAN_LAYERS, hint=BUILD_HINT)
    if hashlib.sha256(data).hexdigest() != digest:
        raise user_error(
            "is not what the build recorded (sha256 differs)", where=path, hint=BUILD_HINT
        )
    shapes = stage_shapes(stage, record.profile)
    model = for_tensorrt(bundle.graph(stage).model())
    layers = parse_layers(data.decode("utf-8", "replace"), str(path))
    return report(model, tensor_facts(model, shapes.opt), layers, tf32=record.options.tf32)
