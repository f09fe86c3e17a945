"""FP8: positions of Q and DQ, their scales, and loss of accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from safetensors import safe_open

from covis.engines.errors import CovisError, ExitCode
from covis.export.check.drift import measure_drift
from covis.export.passes.quantize import scale_of
from covis.export.precision.calibration import input_peaks
from covis.export.stage import Port, StageModule
from covis.export.weights.convert import convert_weights
from tests.export.passes.precision_chain import CONFIGS, HEIGHT, WIDTH, narrowed, traced

FP8 = ir.DataType.FLOAT8E4M3FN
BOUND, DEGREES = 0.3, 120.0  # of random weights, which no training has made robust
TRUNK = ("encoder", "aggregator")


@pytest.mark.parametrize("config", CONFIGS)
def test_linear_layers_and_drift(config: str, tmp_path: Path) -> None:
    graphs, record = narrowed(config, tmp_path, "fp8")
    assert record.calibration == 3
    assert [p.name for p in record.passes][-1] == "quantize"
    for stage, model in graphs.items():
        for node in (n for n in model.graph if n.op_type == "Gemm"):
            made = [v.producer() for v in node.inputs[:2] if v is not None]
            kinds = {None if n is None else n.op_type for n in made}
            sides = [n for n in node.inputs[1].shape or () if isinstance(n, int)]  # type: ignore[union-attr]
            if stage not in TRUNK or any(n % 16 for n in sides):
                assert "DequantizeLinear" not in kinds, node.name
                continue
            assert kinds == {"DequantizeLinear"}, node.name
            data, weight = made
            assert data is not None and weight is not None
            quantize = data.inputs[0].producer()  # type: ignore[union-attr]
            assert quantize is not None and quantize.op_type == "QuantizeLinear"
            assert weight.inputs[0].dtype == FP8, "weights are kept in FP8"  # type: ignore[union-attr]
            for value in (quantize.inputs[1], weight.inputs[1]):
                assert value is not None and value.shape == ir.Shape([]), "one scale a tensor"
                assert value.dtype == ir.DataType.FLOAT16
                assert value.const_value is not None and value.const_value.numpy() > 0
        onnx.checker.check_model(str(tmp_path / f"{stage}.onnx"), full_check=True)

    measured = measure_drift(traced(config).stages, tmp_path, (HEIGHT, WIDTH), "fp8")
    worst = max(measured["drift"], key=lambda d: d.rms_rel)
    print(f"{config} fp8: {worst} {measured['scene']}")
    assert 1e-3 < worst.rms_rel < BOUND, worst
    assert all(s.pose_degrees < DEGREES for s in measured["scene"])


def test_scales_cover_the_largest_number_and_waste_nothing() -> None:
    for peak in (0.03, 0.37, 5.0, 447.9, 448.0, 3000.0):
        assert peak <= scale_of(peak) * 448 <= peak * (1 + 2**-9)
    assert scale_of(0.0) == scale_of(1e-9) == scale_of(0.02) == 2.0**-14, (
        "a scale is a normal float16 number"
    )


def test_peaks_are_what_the_layers_read() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.ModuleDict(
                {"a": torch.nn.Linear(3, 2), "b": torch.nn.Linear(2, 1)}
            )
            with torch.no_grad():
                self.model["a"].weight.fill_(1.0)
                self.model["a"].bias.fill_(-8.0)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.model["b"](self.model["a"](images.mean((2, 3))))
            return out

    ports = (Port("images", ("N", 3, 14, 14)),), (Port("out", ("N", 1)),)
    images = np.zeros((5, 3, 14, 14), np.float32)
    images[4] = 2.0
    peaks = input_peaks([StageModule("two", "frames", Two(), *ports)], images)
    assert peaks == {"a": 2.0, "b": 8.0}


def test_input_that_is_not_finite() -> None:
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 196, 1))
    ports = (Port("images", ("N", 3, 14, 14)),), (Port("out", ("N", 1)),)
    images = np.full((2, 3, 14, 14), np.nan, np.float32)
    with pytest.raises(CovisError, match="layer 1: reads numbers that are not finite") as caught:
        input_peaks([StageModule("one", "frames", module, *ports)], images)
    assert caught.value.code == ExitCode.NUMERICS


def test_weights_are_stored_in_units_of_their_scale(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weight = torch.randn(16, 32)
    save_file({"w": weight}, tmp_path / "in.safetensors")
    scale = scale_of(float(weight.abs().max()))
    types = {"w": torch.float8_e4m3fn}
    convert_weights(tmp_path / "in.safetensors", tmp_path / "out", types, scales={"w": scale})
    with safe_open(tmp_path / "out", "pt") as file:
        stored = file.get_tensor("w").float() * scale
    assert ((stored - weight).abs() <= weight.abs() / 16 + scale * 2**-9).all()


def test_attention_is_permitted_fp8_on_request(tmp_path: Path) -> None:
    graphs, record = narrowed("vggt_a1", tmp_path, "fp8", fp8_attention=True)
    assert record.fp8_attention and [p.name for p in record.passes][-1] == "low_attention"
    for stage in TRUNK:
        nodes = [n for n in graphs[stage].graph if n.op_type == "BlockSparseAttention"]
        for node in nodes:
            cast = node.inputs[3].producer()  # type: ignore[union-attr]
            assert cast is not None and cast.op_type == "Cast"
            low = cast.inputs[0].producer()  # type: ignore[union-attr]
            assert low is not None and low.op_type == "Min"
            assert low.inputs[1].const_value.numpy() == 1  # type: ignore[union-attr]
            assert node.inputs[3].dtype == ir.DataType.INT8  # type: ignore[union-attr]
        assert nodes
