"""Run one ONNX graph in its own process; imports no torch, so that the process stays small."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from covis.engines.system.ort_settings import import_onnxruntime, session_settings


def run_graph(graph: Path, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return every output of a graph by name, computed by ONNX Runtime's CPU provider.

    No custom op library is registered: the graph has to run on standard operators alone.
    """
    session = import_onnxruntime().InferenceSession(
        str(graph), session_settings(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))
