"""Properties of every model's stages that the exporter needs: ports, variable views, constants."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from covis.engines.errors import CovisError
from covis.export.models import MultiViewModel, build_model, stages
from covis.export.models.layers import Block
from covis.export.models.vggt import Vggt
from covis.export.ops import block_sparse_attention
from covis.export.stage import Port, StageModule
from tests.golden_data import golden_json

TINY = [
    ("vggt", "vggt_a1"),
    ("pi3", "pi3_a1"),
    ("mapanything", "mapanything_a1"),
    ("mapanything", "mapanything_a2"),
]
HEIGHT, WIDTH = 56, 84
SIZES = {"R": 3, "K": 4}
"""Maps of view pairs and sampled queries; every other symbol is the number of views."""


@pytest.fixture(scope="module", params=TINY, ids=[config for _, config in TINY])
def model(request: pytest.FixtureRequest) -> MultiViewModel:
    name, config = request.param
    built = build_model(name, golden_json(f"{config}.json")["config"])
    generator = torch.Generator().manual_seed(0)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    return built.requires_grad_(False)


def example(port: Port, views: int) -> Tensor:
    shape = [SIZES.get(n, views) if isinstance(n, str) else n for n in port.shape]
    if port.name == "patch_order":
        return torch.arange(shape[0]).flip(0)
    if port.name == "layer_map":
        return torch.arange(shape[0]) % SIZES["R"]
    if port.dtype == torch.float32:
        return torch.rand(shape, generator=torch.Generator().manual_seed(views))
    return torch.full(shape, 2, dtype=torch.int8).to(port.dtype)


def test_outputs_are_as_their_ports_say(model: MultiViewModel) -> None:
    known = {"images", "pair_levels", "layer_map", "probe"}
    known |= {"keep_ratio", "cdf", "patch_order"}
    for stage in stages(model, HEIGHT, WIDTH):
        assert {port.name for port in stage.inputs} <= known
        known |= {port.name for port in stage.outputs}
        for views in (1, 3):
            outputs = stage.module(*(example(port, views) for port in stage.inputs))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            for port, value in zip(stage.outputs, outputs, strict=True):
                shape = tuple(SIZES.get(n, views) if isinstance(n, str) else n for n in port.shape)
                assert tuple(value.shape) == shape, f"{stage.name} {port.name}"
                assert value.dtype == port.dtype


def test_parameters_keep_official_names(model: MultiViewModel) -> None:
    official = model.state_dict().keys()
    for stage in stages(model, HEIGHT, WIDTH):
        assert {k.removeprefix("model.") for k in stage.module.state_dict()} == official


def trace(stage: StageModule) -> torch.export.ExportedProgram:
    symbols = [
        {axis: torch.export.Dim.DYNAMIC for axis, n in enumerate(port.shape) if isinstance(n, str)}
        for port in stage.inputs
    ]
    inputs = tuple(example(port, 3) for port in stage.inputs)
    variadic = stage.name not in {"encoder", "aggregator", "aggregator_pooled"}
    dynamic = (tuple(symbols),) if variadic else tuple(symbols)
    return torch.export.export(stage.module, inputs, dynamic_shapes=dynamic, strict=False)


def test_traces_serve_every_view_count_and_hold_tables_as_constants(
    model: MultiViewModel,
) -> None:
    # Every stage is traced by the tests of the export itself; here, one with each kind of table.
    chosen = {"vggt": "depth", "pi3": "aggregator", "mapanything": "encoder"}[model.name]
    for stage in stages(model, HEIGHT, WIDTH):
        if stage.name != chosen:
            continue
        program = trace(stage)
        called = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
        assert not [op for op in called if any(w in op for w in ("cos.", "linspace", "pow."))]
        assert all(value.device.type == "cpu" for value in program.constants.values())
        traced = program.module()
        for views in (1, 5):
            inputs = tuple(example(port, views) for port in stage.inputs)
            torch.testing.assert_close(traced(*inputs), stage.module(*inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(50, 84), (56, 85), (0, 14), (-14, 14)])
def test_sizes_that_are_no_multiple_of_the_patch_are_refused(
    model: MultiViewModel, height: int, width: int
) -> None:
    with pytest.raises(CovisError, match="no multiple of the patch, 14"):
        stages(model, height, width)


def test_attention_is_always_the_op(model: MultiViewModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block of every stage attends through block_sparse_attention, once a run."""
    calls: list[int] = []

    def counted(*args: Tensor, **kwargs: object) -> Tensor:
        calls.append(1)
        return block_sparse_attention(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("covis.export.models.layers.block_sparse_attention", counted)
    model(torch.rand(1, 2, 3, HEIGHT, WIDTH))
    blocks = sum(isinstance(m, Block) for m in model.modules())
    repeats = 0
    if isinstance(model, Vggt):  # its camera trunk runs four times
        repeats = 3 * model.config.camera_trunk_depth
    assert len(calls) == blocks + repeats
