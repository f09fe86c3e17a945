"""Triton's own schema of model configurations, as its client's package ships it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest


def model_config(text: str) -> Any:
    """Parse a `config.pbtxt` by the real schema: unknown fields and wrong types are errors.

    The client's package imports gRPC, which this needs not: its generated file is loaded alone.
    """
    text_format = pytest.importorskip("google.protobuf.text_format")
    found = importlib.util.find_spec("tritonclient")
    places = list(found.submodule_search_locations or []) if found is not None else []
    file = Path(places[0]) / "grpc" / "model_config_pb2.py" if places else Path("nowhere")
    if not file.is_file():
        pytest.skip("tritonclient, which carries Triton's schema, is not installed")
    spec = importlib.util.spec_from_file_location("covis_triton_model_config_pb2", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return text_format.Parse(text, module.ModelConfig())
