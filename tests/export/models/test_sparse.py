"""Whole models with sparse global attention against the original's masks and outputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from covis.engines.bundle.patch_order import patch_order
from covis.export.models import MultiViewModel
from covis.export.models.pi3 import Pi3
from covis.export.models.vggt import Vggt
from covis.export.ops import DENSE, dense_level
from covis.export.selection.block_maps import K_BLOCK, Q_BLOCK, BlockMap, PooledSelection, Selection
from tests.export.models.parity import recorded_model
from tests.golden_data import golden, golden_json

CASES = [(model, mode) for model in ("vggt", "pi3") for mode in range(3)]
OUTPUT_TOLERANCE = 1e-5  # of the largest value: what another order of summation costs
CERTAIN_GAP = 1e-5  # scores closer than this at the boundary may be chosen either way


@dataclass
class Listening:
    """Selection that records the choices of another one."""

    selection: Selection
    chosen: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, layer: int, q: Tensor, k: Tensor) -> BlockMap:
        block_map = self.selection(layer, q, k)
        self.chosen[layer] = block_map.level
        return block_map


def load(name: str, mode: int) -> tuple[MultiViewModel, dict[str, Any], dict[str, Tensor]]:
    record = golden_json(f"sparse_e2e_{name}_a1.json")
    model = recorded_model(name, f"{name}_a1")
    return model, record["modes"][mode], load_file(golden(record["file"]))


def run(
    model: MultiViewModel, images: Tensor, selection: Selection, order: Tensor | None
) -> dict[str, Tensor]:
    """Return the recorded outputs of one scene, with the patches of a frame in that order."""
    height, width = images.shape[-2:]
    with torch.inference_mode():
        encoded = tuple(x[None] for x in model.encode(images[0]))
        aggregated = model.aggregate(encoded, height, width, selection, order)
        if isinstance(model, Vggt):
            camera, *taps = aggregated
            depth, conf = model.depth([tap[0] for tap in taps], height, width)
            pose = model.camera_head(camera)
            return {"pose_enc": pose, "depth": depth[None, ..., None], "depth_conf": conf[None]}
        assert isinstance(model, Pi3)
        halves = [half[0] for half in aggregated]
        points = model.local_points(halves, height, width)
        translation, _ = model.camera(halves, height, width)
        return {"local_points": points[None], "translation": translation[None]}


def recorded_order(record: dict[str, Any], images: Tensor) -> Tensor | None:
    if not record.get("use_hilbert"):
        return None
    rows, columns = images.shape[-2] // 14, images.shape[-1] // 14
    return torch.from_numpy(patch_order("hilbert", rows, columns))


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_outputs_with_the_recorded_masks(name: str, mode: int) -> None:
    model, record, tensors = load(name, mode)
    images = tensors["images"]
    patch_blocks = -(-(images.shape[1] * 96) // K_BLOCK)
    assert images.shape[1] * 96 % K_BLOCK == 0, "special tokens share no block with patches here"

    def selection(layer: int, q: Tensor, k: Tensor) -> BlockMap:
        mask = tensors[f"mode{mode}.mask{layer}"]
        assert mask[..., patch_blocks:].all()  # special tokens are always seen
        return BlockMap(DENSE * mask[..., :patch_blocks].to(torch.int8), Q_BLOCK, K_BLOCK)

    values = run(model, images, selection, recorded_order(record, images))
    dense = run(model, images, lambda layer, q, k: BlockMap(dense_level()), None)
    for output, value in values.items():
        key = "camera_poses" if output == "translation" else output
        expected = tensors[f"mode{mode}.out.{key}"]
        expected = expected[..., :3, 3] if output == "translation" else expected
        allowed = OUTPUT_TOLERANCE * expected.abs().max().item()
        assert (value - expected).abs().max().item() <= allowed, output
        assert (value - dense[output]).abs().max().item() > 100 * allowed, output


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_the_pooled_selector_chooses_the_recorded_masks(name: str, mode: int) -> None:
    model, record, tensors = load(name, mode)
    images = tensors["images"]
    pooled = PooledSelection(
        dense_level()[0],
        torch.zeros(model.global_layers, dtype=torch.int64),
        torch.full((model.global_layers,), 1.0 - record["sparse_ratio"]),
        torch.full((model.global_layers,), record.get("cdf_threshold", 0.0)),
        model.layout(*images.shape[-2:]),
    )
    listening = Listening(pooled)
    run(model, images, listening, recorded_order(record, images))
    assert len(listening.chosen) == record["layers"] == model.global_layers
    # Where the original's own choice hangs on a rounding error, one block may swap for another.
    certain = record["min_score_gap_at_selection_boundary"] >= CERTAIN_GAP
    for layer, level in listening.chosen.items():
        recorded = tensors[f"mode{mode}.mask{layer}"][..., : level.shape[-1]]
        assert ((level > 0) != (recorded > 0)).sum() <= (0 if certain else 2), f"layer {layer}"
