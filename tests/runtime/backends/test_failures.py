"""Whose fault a failure of ONNX Runtime is: the bundle's (2) or the machine's (3), with a hint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from covis.engines.bundle.bundle import open_bundle
from covis.engines.errors import CovisError, ExitCode
from covis.runtime.backends.ort_load import run_failure
from covis.runtime.backends.ort_session import Session, SessionOptions
from tests.engines.mini_bundle import H, W, edit_graph

Change = Callable[[onnx.ModelProto], None]


def loaded(bundle: Path) -> Session:
    opened = open_bundle(bundle)
    stage = opened.manifest.stage("encoder")
    return Session(opened.graph(stage), stage, SessionOptions(threads=1))


def run(session: Session) -> None:
    images = np.ones((1, 3, H, W), np.float32)
    session.run({"images": images}, {"patch_tokens": np.empty((1, 4), np.float32)})


def unknown_op(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "NoSuchOp"


def unknown_domain(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "elsewhere"
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))


def cycle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "patch_tokens"


def missing_value(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "nobody"


def opset_of_the_future(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 9_999


def refused_by_the_kernel(model: onnx.ModelProto) -> None:
    names = ["q", "k", "v", "level"]
    for name in names:
        kind = TensorProto.INT8 if name == "level" else TensorProto.FLOAT
        model.graph.initializer.append(helper.make_tensor(name, kind, [1, 1, 1, 1], [1]))
    model.graph.node.append(
        helper.make_node("BlockSparseAttention", names, ["o"], domain="covis", q_block=0)
    )
    model.graph.node.append(helper.make_node("Squeeze", ["o", "axes03"], ["o2"]))
    axes = helper.make_tensor("axes03", TensorProto.INT64, [2], [2, 3])
    model.graph.initializer.append(axes)
    model.graph.node.append(helper.make_node("Add", ["o2", "sum"], ["patch_tokens"]))
    model.graph.node[1].output[0] = "sum"
    model.opset_import.append(helper.make_opsetid("covis", 1))


@pytest.mark.parametrize(
    "change",
    [unknown_op, unknown_domain, cycle, missing_value, opset_of_the_future, refused_by_the_kernel],
)
def test_graphs_that_cannot_be_loaded(mini_bundle: Path, change: Change) -> None:
    edit_graph(mini_bundle, "encoder", change)
    with pytest.raises(CovisError, match=r"encoder.onnx: ONNX Runtime .* cannot load it") as caught:
        loaded(mini_bundle)
    assert caught.value.code == ExitCode.USER
    assert "\n" not in str(caught.value) and "export the bundle again" in caught.value.hint


def fails_when_it_runs(model: onnx.ModelProto) -> None:
    model.graph.node[1].output[0] = "whole"
    model.graph.node.append(helper.make_node("Gather", ["whole", "far"], ["row"], axis=0))
    model.graph.node.append(helper.make_node("Reshape", ["row", "shape"], ["patch_tokens"]))
    for name, value in (("far", [1_000]), ("shape", [-1, 4])):
        tensor = helper.make_tensor(name, TensorProto.INT64, [len(value)], value)
        model.graph.initializer.append(tensor)


def takes_too_much_memory(model: onnx.ModelProto) -> None:
    model.graph.node[1].output[0] = "whole"
    model.graph.node.append(helper.make_node("Expand", ["whole", "size"], ["large"]))
    model.graph.node.append(
        helper.make_node("ReduceMax", ["large", "two"], ["patch_tokens"], keepdims=0)
    )
    for name, value in (("size", [10**6, 10**6, 1, 4]), ("two", [0, 1])):
        tensor = helper.make_tensor(name, TensorProto.INT64, [len(value)], value)
        model.graph.initializer.append(tensor)


@pytest.mark.parametrize(
    ("change", "code", "words", "hint"),
    [
        (fails_when_it_runs, ExitCode.USER, "stage encoder: failed", "export the bundle again"),
        (takes_too_much_memory, ExitCode.ENVIRONMENT, "out of memory", "use fewer views"),
    ],
)
def test_graphs_that_fail_when_they_run(
    mini_bundle: Path, change: Change, code: ExitCode, words: str, hint: str
) -> None:
    edit_graph(mini_bundle, "encoder", change)
    session = loaded(mini_bundle)
    with pytest.raises(CovisError, match=words) as caught:
        run(session)
    assert caught.value.code == code and hint in caught.value.hint
    assert "\n" not in str(caught.value)


def test_failures_of_a_gpu_may_be_the_machines() -> None:
    kind = type("Fail", (Exception,), {})
    on_gpu = run_failure(kind("CUDA failure 700"), "encoder", on_gpu=True)
    assert on_gpu.code == ExitCode.ENVIRONMENT and on_gpu.hint
    assert run_failure(kind("shape"), "encoder", on_gpu=False).code == ExitCode.USER
