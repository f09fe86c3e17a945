"""The model repository for Triton: every file by Triton's own schema, every tensor connected."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from covis.cli import run_command
from covis.engines.bundle.bundle import Bundle, open_bundle
from covis.engines.bundle.folder import PLANS
from covis.engines.bundle.manifest import Stage
from covis.engines.tensorrt.plans.cache import PlanCache
from covis.engines.tensorrt.plans.record import Range
from covis.engines.tensorrt.triton import TritonOptions, stage_backend
from tests.engines.tensorrt.plan_inputs import plan_inputs
from tests.engines.tensorrt.triton_schema import model_config
from tests.places import DEMO

TYPES = {
    "float32": "TYPE_FP32", "int32": "TYPE_INT32", "int64": "TYPE_INT64", "bool": "TYPE_BOOL",
}  # fmt: skip
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def configs(repository: Path) -> dict[str, Any]:
    models = repository / "models"
    return {
        folder.name: model_config((folder / "config.pbtxt").read_text())
        for folder in models.iterdir()
    }


def kinds(config: Any, field: str) -> dict[str, tuple[str, list[int], bool]]:
    enum = type(config).DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_number
    return {
        t.name: (enum[t.data_type].name, list(t.dims), t.HasField("reshape"))
        for t in getattr(config, field)
    }


@pytest.mark.parametrize(("selector", "without"), [
    ("saliency", "aggregator_pooled"), ("both", "aggregator"),
])  # fmt: skip
def test_repository_of_graphs(
    capsys: Captured, tmp_path: Path, selector: str, without: str
) -> None:
    out = tmp_path / "repository"
    arguments = ["triton", str(DEMO), "--out", str(out), "--backend", "onnxruntime"]
    assert run_command([*arguments, "--selector", selector]) == 0
    assert capsys.readouterr().out == f"tritonserver --model-repository={out}/models\n"
    manifest = open_bundle(DEMO).manifest
    stages = [stage for stage in manifest.stages if stage.name != without]
    found = configs(out)
    assert found.keys() == {"covis", *(f"covis_{stage.name}" for stage in stages)}
    for stage in stages:
        config = found[f"covis_{stage.name}"]
        assert config.name == f"covis_{stage.name}" and config.backend == "onnxruntime"
        assert config.max_batch_size == 0 and len(config.instance_group) == 1
        for field, tensors in (("input", stage.inputs), ("output", stage.outputs)):
            tensors_of_config = kinds(config, field)
            assert tensors_of_config.keys() == {tensor.name for tensor in tensors}
            for tensor in tensors:
                dims = [-1 if isinstance(n, str) else n for n in tensor.shape]
                assert tensors_of_config[tensor.name] == (TYPES[tensor.dtype], dims or [1], False)
        # The served graph loads and runs with its weights.
        graph = out / "models" / f"covis_{stage.name}" / "1" / "model.onnx" / "model.onnx"
        session = ort.InferenceSession(str(graph))
        ranks = {value.name: len(value.shape) for value in session.get_inputs()}
        assert ranks == {t.name: len(t.shape) or 1 for t in stage.inputs}
    files = list(out.rglob("model.safetensors"))
    weighty = [s for s in stages if s.name != "saliency"]  # which has no weights
    assert len(files) == len(weighty) and len({file.stat().st_ino for file in files}) == 1
    check_ensemble(found, [stage.name for stage in stages])


def check_ensemble(found: dict[str, Any], order: list[str]) -> None:
    """Every tensor of every step is there when it is read, in the type and shape of its output."""
    ensemble = found["covis"]
    assert ensemble.platform == "ensemble" and ensemble.max_batch_size == 0
    there = kinds(ensemble, "input")
    assert "images" in there and there["reference"] == ("TYPE_INT64", [1], False)
    steps = ensemble.ensemble_scheduling.step
    assert [step.model_name for step in steps] == [f"covis_{name}" for name in order]
    for step in steps:
        model = found[step.model_name]
        takes, gives = kinds(model, "input"), kinds(model, "output")
        assert step.input_map.keys() == takes.keys() and step.output_map.keys() == gives.keys()
        for name, tensor in step.input_map.items():
            assert there[tensor] == takes[name], tensor
        there |= {tensor: gives[name] for name, tensor in step.output_map.items()}
    results = kinds(ensemble, "output")
    assert {"pose_enc", "depth", "world_points", "pair_levels"} <= results.keys()
    assert all(there[name] == result for name, result in results.items())


def build_plans(bundle: Bundle, folder: Path, most: int) -> dict[str, bytes]:
    """Write a plan of each stage into the cache; the repository never reads its bytes."""
    digests = {file.path: file.sha256 for file in bundle.manifest.files}
    plans = {}
    for stage in bundle.manifest.stages:
        symbol = "N" if stage.scope == "frames" else "M"
        for high in (most, 4 * most):
            data = f"{stage.name} up to {high}".encode()
            inputs = plan_inputs(
                stage=stage.name, graph=digests[stage.graph],
                weights=digests[bundle.manifest.weights.file],
                profile={symbol: Range(min=1, opt=high, max=high)},
            )  # fmt: skip
            PlanCache(folder).get(inputs, lambda write, data=data: write(data))
            plans[f"{stage.name}-{high}"] = data
    return plans


def test_numbers_travel_in_rows_of_one(capsys: Captured, tmp_path: Path) -> None:
    """Triton refuses "reshape { }" for models without batches; the results stay as they are."""
    out = tmp_path / "repository"
    assert run_command(["triton", str(DEMO), "--out", str(out), "--backend", "onnxruntime"]) == 0
    graphs = [DEMO / "saliency.onnx",
              out / "models" / "covis_saliency" / "1" / "model.onnx" / "model.onnx"]  # fmt: skip
    tokens = np.random.default_rng(0).standard_normal((3, 64, 128)).astype(np.float32)
    both = np.array([True, False])
    feeds = {
        "patch_tokens": tokens,
        "anchor_order": np.full(3, -1, np.int64),
        "tau": np.float32([0.1, 2.0]),
        "tau_low": np.float32([0.2, 2.0]),
        "anchors": np.array([0, 1]),
        "min_neighbours": np.array([1, 0]),
        "own_frame": both,
        "reference": np.array(0),
        "to_reference": both,
        "from_reference": both,
    }
    results = []
    for graph, shape in zip(graphs, [(), (1,)], strict=True):
        feeds_of_copy = {n: v if v.ndim else v.reshape(shape) for n, v in feeds.items()}
        results.append(ort.InferenceSession(str(graph)).run(None, feeds_of_copy))
    for expected, got in zip(*results, strict=True):
        np.testing.assert_array_equal(got, expected)
    capsys.readouterr()


def test_repository_of_plans(capsys: Captured, tmp_path: Path) -> None:
    bundle, out = open_bundle(DEMO), tmp_path / "repository"
    plugin = tmp_path / "libcovis_trt.so"
    plugin.write_bytes(b"library")
    kernels = tmp_path / "libcovis_kernels.so"
    plans = build_plans(bundle, tmp_path / PLANS, 8)
    arguments = ["triton", str(DEMO), "--plans", str(tmp_path / PLANS), "--plugin", str(plugin)]
    command = [*arguments, "--out", str(out), "--views", "8", "--device", "1"]
    assert run_command(command) == 2 and not out.exists()
    assert "has no libcovis_kernels.so beside it" in capsys.readouterr().err
    kernels.write_bytes(b"kernels")
    assert run_command(command) == 0
    assert capsys.readouterr().out == (
        f"tritonserver --model-repository={out}/models "
        f"--backend-config=tensorrt,plugins={out}/plugins/libcovis_trt.so\n"
    )
    found = configs(out)
    for stage in bundle.manifest.stages:
        if stage.name == "aggregator_pooled":
            continue
        place = out / "models" / f"covis_{stage.name}"
        if stage.name == "saliency":  # has scalar inputs, which Triton does not pass to plans
            assert found["covis_saliency"].backend == "onnxruntime"
            assert (place / "1" / "model.onnx" / "model.onnx").is_file()
            assert list(found["covis_saliency"].instance_group[0].gpus) == [1]
            continue
        assert (place / "1" / "model.plan").read_bytes() == plans[f"{stage.name}-8"]
        group = found[f"covis_{stage.name}"].instance_group[0]
        assert list(group.gpus) == [1] and found[f"covis_{stage.name}"].backend == "tensorrt"
    assert (out / "plugins" / "libcovis_trt.so").read_bytes() == b"library"
    assert (out / "plugins" / "libcovis_kernels.so").read_bytes() == b"kernels"
    assert list((out / "models" / "covis" / "1").iterdir()) == []
    again = [*arguments, "--out", str(out), "--views", "20"]
    assert run_command(again) == 2 and "already exists" in capsys.readouterr().err
    foreign = out / "models" / "covis_depth" / "1" / "notes.txt"
    foreign.touch()
    assert run_command([*again, "--force"]) == 2
    assert "holds 'models/covis_depth/1/notes.txt', which is no part" in capsys.readouterr().err
    foreign.unlink()
    assert run_command([*again, "--force"]) == 0
    plan = out / "models" / "covis_depth" / "1" / "model.plan"
    assert plan.read_bytes() == plans["depth-32"]


def test_only_stages_without_single_numbers_are_served_as_plans() -> None:
    vector = {"name": "keep_ratio", "dtype": "float32", "shape": (24,)}
    number = {"name": "reference", "dtype": "int64", "shape": ()}
    for inputs, expected in (((vector,), "tensorrt"), ((vector, number), "onnxruntime")):
        stage = Stage(name="any", scope="sequence", graph="any.onnx", inputs=inputs, outputs=())
        options = TritonOptions("tensorrt", (stage,), 8, Path(PLANS))
        assert stage_backend(stage, options) == expected
        assert stage_backend(stage, replace(options, backend="onnxruntime")) == "onnxruntime"


def test_what_is_refused(capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, folder, out = open_bundle(DEMO), tmp_path / PLANS, tmp_path / "repository"
    arguments = ["triton", str(DEMO), "--plans", str(folder), "--out", str(out)]

    def refused(words: str, *more: str, code: int = 2) -> None:
        assert run_command([*arguments, *more]) == code
        assert words in capsys.readouterr().err and not out.exists()

    refused("stage encoder: has no plan of this bundle's graph; covis build")
    plans = build_plans(bundle, folder, 8)
    refused("stage encoder: no plan holds 99 views (nearest: 1:32:32)", "--views", "99")
    refused("nowhere.so: no such plugin library", "--plugin", "nowhere.so")
    monkeypatch.setattr("covis.engines.tensorrt.triton.find_library", lambda name, given: None)
    refused("was not built; see docs/how-to/tensorrt.md", code=3)
    plan = next(folder.glob("encoder-*.plan"))
    plan.write_bytes(plan.read_bytes()[::-1])
    other = {hashlib.sha256(data).hexdigest() for data in plans.values()}
    assert hashlib.sha256(plan.read_bytes()).hexdigest() not in other
    views = "8" if "up to 8" in plan.read_bytes()[::-1].decode() else "32"
    refused("is not what was built (sha256 differs)", "--views", views)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    arguments[-1] = str(tmp_path / "mine")
    assert run_command([*arguments, "--force"]) == 2
    words = "holds 'file', which is no part of a repository of covis, and is not replaced"
    assert words in capsys.readouterr().err
    assert (tmp_path / "mine" / "file").exists()
    assert run_command([*arguments, "--views", "0"]) == 2


def test_schema_is_strict() -> None:
    """The parser of these tests rejects fields that Triton does not define."""
    from google.protobuf.text_format import ParseError

    with pytest.raises(ParseError):
        model_config('name: "x" colour: 3')
    with pytest.raises(ParseError):
        model_config('input { name: "x" data_type: TYPE_FLOAT32 dims: 1 }')
    assert list(model_config('input { name: "x" dims: -1 }').input[0].dims) == [-1]
