"""The table of element types, compared with the libraries whose names it contains."""

from __future__ import annotations

from typing import get_args

import onnx
import pytest
import torch
from onnx import helper
from safetensors.torch import _TYPES as SAFETENSORS  # type: ignore[attr-defined]

from covis.engines.bundle.manifest import Dtype, WeightsDtype
from covis.engines.dtypes import BY_NAME, BY_SAFETENSORS, numpy_dtype, onnx_name


@pytest.mark.parametrize("name", BY_NAME)
def test_numpy_and_onnx(name: str) -> None:
    kind = BY_NAME[name]
    assert numpy_dtype(name).name == name
    assert helper.tensor_dtype_to_np_dtype(kind.onnx) == numpy_dtype(name)
    assert kind.bits in (4, 8 * numpy_dtype(name).itemsize)
    assert onnx_name(kind.onnx) == name


def test_types_of_other_projects_are_unknown() -> None:
    assert onnx_name(onnx.TensorProto.STRING) == "unknown"


def test_stored_types() -> None:
    assert {kind.name for kind in BY_SAFETENSORS.values()} == set(get_args(WeightsDtype))
    for name, kind in BY_SAFETENSORS.items():
        assert SAFETENSORS[name] == getattr(torch, kind.name)


def test_types_of_stages_have_names_everywhere() -> None:
    for name in get_args(Dtype):
        assert BY_NAME[name].tensorrt and BY_NAME[name].triton
