"""Verification of exported graphs against torch, on a graph written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from covis.engines.errors import CovisError, ExitCode
from covis.export.check.verify import VIEW_COUNTS, refuse_failures, verify_stages
from covis.export.stage import Port, StageModule

H = W = 14


class Mix(torch.nn.Module):
    """Mean colour of each image, times a matrix."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(3, 5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) @ self.weight


def stage() -> StageModule:
    ports = (
        (Port("images", torch.float32, ("N", 3, H, W)),),
        (Port("mixed", torch.float32, ("N", 5)),),
    )
    return StageModule("mix", "frames", Mix(), *ports)


def write(folder: Path, weight: np.ndarray, operator: str = "MatMul") -> None:
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["colour"], keepdims=0),
        helper.make_node(operator, ["colour", "weight"], ["mixed"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mix",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, H, W])],
        [helper.make_tensor_value_info("mixed", TensorProto.FLOAT, ["N", 5])],
        [
            numpy_helper.from_array(np.array([2, 3]), "axes"),
            numpy_helper.from_array(weight.astype(np.float32), "weight"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(folder / "mix.onnx"))


@pytest.mark.parametrize(
    ("fault", "passes"), [(0.0, True), (1e-3, False), (float("nan"), False)]
)  # fmt: skip
def test_verdicts(tmp_path: Path, fault: float, passes: bool) -> None:
    module = stage()
    weight = module.module.weight.detach().numpy().copy()
    weight[1, 2] += fault
    write(tmp_path, weight)
    checks = list(verify_stages([module], tmp_path, (H, W)))
    assert [(c.stage, c.output, c.views) for c in checks] == [
        ("mix", "mixed", views) for views in VIEW_COUNTS
    ]
    assert [c.passed for c in checks] == [passes] * len(checks)
    if passes:
        refuse_failures(checks)
        return
    with pytest.raises(CovisError, match="stage mix: mixed differs from torch by") as caught:
        refuse_failures(checks)
    assert caught.value.code == ExitCode.NUMERICS and "\n" not in str(caught.value)


def test_graph_that_cannot_be_run(tmp_path: Path) -> None:
    write(tmp_path, np.ones((3, 5)), operator="NoSuchOperator")
    with pytest.raises(CovisError, match=r"the graph cannot be run .*NoSuchOp") as caught:
        list(verify_stages([stage()], tmp_path, (H, W)))
    assert caught.value.code == ExitCode.ENVIRONMENT and "\n" not in str(caught.value)


def test_helper_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operating system kills the helper when memory runs out."""
    write(tmp_path, np.ones((3, 5)))
    monkeypatch.setattr("covis.export.check.verify.run_graph", _die)
    with pytest.raises(CovisError, match=r"stage mix: the graph cannot be run .*free memory"):
        list(verify_stages([stage()], tmp_path, (H, W)))


def _die(graph: Path, inputs: object) -> None:
    import os

    os._exit(9)
