"""Narrow bundles: types of operators, types of stored weights, and loss of accuracy."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from covis.engines.errors import CovisError, ExitCode
from covis.export.check.drift import measure_drift
from covis.export.options import ExportOptions
from covis.export.precision.precision import KeepList
from covis.export.trace import layer_of
from covis.export.weights.convert import convert_weights
from tests.export.passes.precision_chain import CONFIGS, HEIGHT, WIDTH, narrowed, traced

TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
# About three times what was seen: of any output, rms; pose drift in degrees; depth drift.
BOUNDS = {"fp16": 5e-3, "bf16": 8e-2}
DEGREES = {"fp16": 1.7, "bf16": 15.0}
DEPTH = {"fp16": 1.5e-2, "bf16": 8.5e-2}
NARROW = ("Gemm", "BlockSparseAttention", "BlockSelect", "Gelu")
WIDE = ("LayerNormalization", "Softmax", "MatMul", "Exp", "Resize")
TRUNK = ("encoder", "aggregator")


@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("config", CONFIGS)
def test_types_and_drift(config: str, precision: str, tmp_path: Path) -> None:
    graphs, record = narrowed(config, tmp_path, precision)
    for stage, model in graphs.items():
        narrow = TYPES[precision] if stage in TRUNK else ir.DataType.FLOAT
        count = 0
        for node in model.graph:
            if node.op_type in NARROW:
                data = node.inputs[: 1 if node.op_type == "Gelu" else 3]
                assert {v.dtype for v in data if v is not None} == {narrow}, (stage, node.name)
                count += 1
            if node.op_type in WIDE:
                assert node.inputs[0].dtype == ir.DataType.FLOAT, (stage, node.name)
            if node.op_type == "Conv":
                has_type = precision == "fp16" and stage in TRUNK
                expected = ir.DataType.FLOAT16 if has_type else ir.DataType.FLOAT
                assert {v.dtype for v in node.inputs} == {expected}, (stage, node.name)
        assert count or stage not in TRUNK
        assert {v.dtype for v in [*model.graph.inputs, *model.graph.outputs]} <= {
            ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL
        }  # fmt: skip
        onnx.checker.check_model(str(tmp_path / f"{stage}.onnx"), full_check=precision == "fp16")

    assert [p.name for p in record.passes] == [
        *["fold", "split_qkv", "split_rows", "widen_levels", "narrow", "move_casts"]
    ]
    measured = measure_drift(traced(config).stages, tmp_path, (HEIGHT, WIDTH), precision)
    worst = max(measured["drift"], key=lambda d: d.rms_rel)
    print(f"{config} {precision}: {worst} {measured['scene']}")
    assert worst.rms_rel < BOUNDS[precision], worst
    assert any(d.rms_rel > 1e-5 for d in measured["drift"]), "nothing was rounded"
    assert all(s.pose_degrees < DEGREES[precision] for s in measured["scene"])
    assert all(s.depth_relative < DEPTH[precision] for s in measured["scene"])


def test_residual_stream_stays_wide(tmp_path: Path) -> None:
    graphs, _ = narrowed("vggt_a1", tmp_path, "fp16")
    for stage in TRUNK:
        added = [
            node
            for node in graphs[stage].graph
            if node.op_type == "Add" and layer_of(node).rpartition(".")[2].isdigit()
        ]
        assert len(added) == 2 * len({layer_of(n) for n in added}), "two a block"
        assert all(v.dtype == ir.DataType.FLOAT for n in added for v in n.inputs)


def test_weights_are_stored_in_the_type_that_reads_them(tmp_path: Path) -> None:
    narrowed("vggt_a1", tmp_path, "fp16")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        types = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    block = "aggregator.global_blocks.0."
    assert types[f"{block}attn.qkv.weight"] == types[f"{block}mlp.fc2.bias"] == torch.float16
    assert types[f"{block}norm1.weight"] == types[f"{block}ls1.gamma"] == torch.float32
    assert types["depth_head.projects.0.weight"] == torch.float32
    assert "aggregator.patch_embed.mask_token" not in types, "what no graph reads is not kept"
    model = onnx.load(str(tmp_path / "aggregator.onnx"), load_external_data=False)
    assert not [n for n in model.graph.node if n.op_type == "Cast" and "weight" in n.input[0]]


def test_keep_fp32(tmp_path: Path) -> None:
    layer = "aggregator.global_blocks.1"
    graphs, record = narrowed("vggt_a1", tmp_path, "fp16", f"heads,encoder,aggregator/{layer}")
    assert record.keep_fp32 == ("heads", "encoder", f"aggregator/{layer}")
    assert not [v for n in graphs["encoder"].graph for v in n.outputs if v.dtype == TYPES["fp16"]]
    for node in graphs["aggregator"].graph:
        if node.op_type in ("Gemm", "BlockSparseAttention"):
            inside = layer_of(node).startswith(f"{layer}.")
            expected = ir.DataType.FLOAT if inside else ir.DataType.FLOAT16
            assert {v.dtype for v in node.inputs[:3]} == {expected}, node.name


def test_keep_none_narrows_the_heads_too(tmp_path: Path) -> None:
    graphs, _ = narrowed("vggt_a1", tmp_path, "fp16", "none")
    for stage in ("depth", "points", "camera"):
        nodes = [n for n in graphs[stage].graph if n.op_type in ("Gemm", "Conv", "ConvTranspose")]
        assert nodes
        assert {v.dtype for n in nodes for v in n.inputs} == {ir.DataType.FLOAT16}
        assert {v.dtype for v in graphs[stage].graph.outputs} == {ir.DataType.FLOAT}


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("agregator", "names no stage"),
        ("aggregator/blocks.99", "names no layer of that stage"),
        ("aggregator/aggregator.global_block", "names no layer"),
    ],
)
def test_keep_fp32_that_names_nothing(entry: str, told: str) -> None:
    graphs = traced("vggt_a1").graphs
    with pytest.raises(CovisError, match=told) as caught:
        KeepList.parse(entry).check(graphs)
    assert caught.value.code == ExitCode.USER and "\n" not in str(caught.value)


def test_overflow_names_the_tensor_and_the_cure(tmp_path: Path) -> None:
    source = tmp_path / "large.safetensors"
    save_file({"fc.weight": torch.tensor([1.0, 7e4])}, source)
    with pytest.raises(CovisError, match=r"weight fc.weight: overflows in float16; use --prec"):
        convert_weights(
            source, tmp_path / "out", {"fc.weight": torch.float16}, "use --precision bf16"
        )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"precision": "fp16", "dtype": "bfloat16"}, "drop --dtype"),
        ({"keep_fp32": "encoder"}, "nothing to keep"),
    ],
)
def test_contradictory_options(changes: dict[str, str], told: str) -> None:
    with pytest.raises(CovisError, match=told) as caught:
        ExportOptions("vggt", Path("out"), **changes)  # type: ignore[arg-type]
    assert caught.value.code == ExitCode.USER and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"precision": "fp8"}, "give --calibration FOLDER"),
        ({"precision": "fp16", "calibration": Path("photos")}, "--calibration: has no meaning"),
        ({"fp8_attention": True}, "--fp8-attention: has no meaning"),
        ({"max_views": 0}, "--max-views: 0 is not in"),
    ],
)
def test_options_of_fp8(changes: dict[str, object], told: str) -> None:
    with pytest.raises(CovisError, match=told) as caught:
        ExportOptions("vggt", Path("out"), **changes)  # type: ignore[arg-type]
    assert caught.value.code == ExitCode.USER and "\n" not in str(caught.value)
