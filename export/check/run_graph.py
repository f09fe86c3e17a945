"""Running one ONNX graph in a process of its own; imports no torch, so that it stays small."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from covis.engines.system.ort_settings import import_onnxruntime, session_settings


def run_graph(graph: Path, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Every output of a graph by name, from ONNX Runtime's CPU provider and standard ops alone."""
    session = import_onnxruntime().InferenceSession(
        str(graph), session_settings(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))
