"""VGGT against the original's numbers, and its own invariants."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from covis.export.models import build_model
from covis.export.models.dinov2 import DinoV2
from covis.export.models.layers import Block
from covis.export.models.rope import _angles
from covis.export.models.vggt import Vggt, inverse_log
from covis.export.ops import dense_level
from covis.export.selection.block_maps import BlockMap
from tests.export.models.parity import (
    Recorder,
    assert_same,
    precisions,
    recorded_cases,
    recorded_model,
    run_stages,
)
from tests.golden_data import golden

TINY = ["vggt_a1", "vggt_a2"]


def outputs_and_inner(model: Vggt, images: Tensor) -> dict[str, Tensor]:
    aggregator = model.aggregator
    recorder = Recorder(
        encoder=aggregator.patch_embed,
        frame=aggregator.frame_blocks[0],
        joint=aggregator.global_blocks[0],
        last_frame=aggregator.frame_blocks[-1],
        last_joint=aggregator.global_blocks[-1],
    )
    with torch.inference_mode():
        values: dict[str, Tensor] = model(images)
    recorder.close()
    seen, (batch, views) = recorder.seen, images.shape[:2]
    values["inter.patch_tokens"] = seen["encoder"][:, aggregator.patch_embed.special_tokens :]
    values["inter.frame_block0"] = seen["frame"]
    values["inter.global_block0"] = seen["joint"]
    last = [
        seen[name].reshape(batch, views, -1, model.config.embed_dim)
        for name in ("last_frame", "last_joint")
    ]
    values["inter.aggregated_last"] = torch.cat(last, dim=-1)
    return values


@precisions()
@pytest.mark.parametrize("config", TINY)
def test_outputs_and_intermediates_are_the_originals(config: str, exact: bool) -> None:
    model = recorded_model("vggt", config)
    assert isinstance(model, Vggt)
    if exact:
        model.double()
    for case, tensors in recorded_cases(config):
        images = tensors["images"].double() if exact else tensors["images"]
        values = outputs_and_inner(model, images)
        if "out.intrinsic" not in tensors:  # a field of view of 0: infinite focal lengths
            assert values.pop("intrinsic").isinf().any()
        assert_same(values, case, tensors, exact=exact)


def test_official_keys_and_shapes() -> None:
    official = json.loads(golden("keys_vggt.json").read_text())["keys"]
    with torch.device("meta"):
        state = build_model("vggt").state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == {
        key: shape for key, shape in official.items() if not key.startswith("track_head.")
    }


@pytest.mark.parametrize("eps", [1e-6, 1e-5 * 2])
def test_a_wrong_norm_epsilon_would_be_noticed(eps: float) -> None:
    model = recorded_model("vggt", "vggt_a1")
    assert isinstance(model, Vggt)
    model.double()
    for block in model.aggregator.global_blocks:
        assert isinstance(block, Block)
        block.norm1.eps = eps
    case, tensors = next(recorded_cases("vggt_a1"))
    values = outputs_and_inner(model, tensors["images"].double())
    with pytest.raises(AssertionError, match="global_block0"):
        assert_same(
            {"inter.global_block0": values["inter.global_block0"]},
            case,
            {"inter.global_block0": tensors["inter.global_block0"]},
            exact=True,
        )


@pytest.mark.parametrize("views", [1, 2, 3])
def test_the_stages_one_after_another_are_the_model(views: int) -> None:
    model = recorded_model("vggt", "vggt_a1")
    images = torch.rand(views, 3, 56, 84, generator=torch.Generator().manual_seed(0))
    staged = run_stages(model, images)
    with torch.inference_mode():
        whole = model(images[None])
    whole["depth"] = whole["depth"][..., 0]
    for name in ("pose_enc", "depth", "depth_conf", "world_points", "world_points_conf"):
        torch.testing.assert_close(staged[name], whole[name][0], rtol=1e-5, atol=1e-5)


def test_selections_are_asked_once_a_global_layer_with_the_whole_sequence() -> None:
    model = recorded_model("vggt", "vggt_a1")
    asked: list[tuple[int, torch.Size]] = []

    def selection(layer: int, q: Tensor, k: Tensor) -> BlockMap:
        assert q.shape == k.shape
        asked.append((layer, q.shape))
        return BlockMap(dense_level())

    with torch.inference_mode():
        model(torch.rand(1, 2, 3, 28, 42), selection)
    assert asked == [(i, torch.Size([1, 2, 2 * (5 + 6), 64])) for i in range(4)]


def test_patch_order_changes_nothing_but_what_selections_see() -> None:
    model = recorded_model("vggt", "vggt_a2").double()
    tokens = torch.randn(1, 3, 12, 64, generator=torch.Generator().manual_seed(1)).double()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        raster = model.aggregate((tokens,), 42, 56)
        shuffled = model.aggregate((tokens,), 42, 56, patch_order=order)
    for a, b in zip(raster, shuffled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_special_tokens_are_not_rotated() -> None:
    cos, sin = _angles(2, 3, 5, 8)
    assert (cos[:5] == 1).all() and (sin[:5] == 0).all()
    torch.testing.assert_close(cos[5:, 0], torch.tensor([1.0] * 3 + [2.0] * 3).double().cos())
    torch.testing.assert_close(sin[5:, 4], torch.tensor([1.0, 2.0, 3.0] * 2).double().sin())


@pytest.mark.parametrize("registers", [None, 4])
def test_position_embedding_resize_is_torch_s_own(registers: int | None) -> None:
    encoder = DinoV2(8, 1, 2, 1.0, grid=7, registers=registers).double()
    torch.nn.init.normal_(encoder.pos_embed)
    stored = encoder.pos_embed[:, 1:].reshape(1, 7, 7, 8).permute(0, 3, 1, 2)
    for height, width in ((3, 5), (9, 11), (7, 6), (1, 2)):
        if registers is None:
            expected = torch.nn.functional.interpolate(
                stored, scale_factor=((height + 0.1) / 7, (width + 0.1) / 7), mode="bicubic"
            )
        else:
            expected = torch.nn.functional.interpolate(
                stored, (height, width), mode="bicubic", antialias=True
            )
        got = encoder.position(height, width)
        torch.testing.assert_close(got, expected.flatten(2).transpose(1, 2), rtol=0, atol=1e-12)
    assert encoder.position(7, 7) is not None
    torch.testing.assert_close(encoder.position(7, 7), encoder.pos_embed[:, 1:], rtol=0, atol=0)


def test_inverse_log_keeps_small_numbers() -> None:
    y = torch.tensor([-20.0, -1.0, -1e-6, 0.0, 1e-8, 0.3, 40.0])
    expected = y.double().sign() * torch.expm1(y.double().abs())
    torch.testing.assert_close(inverse_log(y).double(), expected, rtol=1e-6, atol=0)
