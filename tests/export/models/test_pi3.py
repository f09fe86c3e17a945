"""pi^3 against the original's numbers, its equivariance and its rotations."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from covis.export.models import build_model
from covis.export.models.cameras import nearest_rotation, rotation_from_nine
from covis.export.models.pi3 import Pi3
from covis.export.ops import dense_level
from covis.export.selection.block_maps import BlockMap, PairSelection, PooledSelection
from tests.export.models.parity import (
    Recorder,
    assert_same,
    precisions,
    recorded_cases,
    recorded_model,
    run_stages,
)
from tests.golden_data import golden


def outputs_and_inner(model: Pi3, images: Tensor) -> dict[str, Tensor]:
    recorder = Recorder(
        encoder=model.encoder,
        frame=model.decoder[0],
        joint=model.decoder[1],
        last_frame=model.decoder[-2],
        last_joint=model.decoder[-1],
        nine=model.camera_head.fc_rot,
    )
    with torch.inference_mode():
        values: dict[str, Tensor] = model(images)
    recorder.close()
    seen = recorder.seen
    values["inter.patch_tokens"] = seen["encoder"][:, model.encoder.special_tokens :]
    values["inter.decoder0_frame"] = seen["frame"]
    values["inter.decoder1_global"] = seen["joint"]
    joint = seen["last_joint"].reshape(seen["last_frame"].shape)
    values["inter.head_input"] = torch.cat([seen["last_frame"], joint], dim=-1)
    values["inter.camera_rot9"] = seen["nine"]
    return values


@precisions()
@pytest.mark.parametrize("config", ["pi3_a1", "pi3_a2"])
def test_outputs_and_intermediates_are_the_originals(config: str, exact: bool) -> None:
    model = recorded_model("pi3", config)
    assert isinstance(model, Pi3)
    if exact:
        model.double()
    for case, tensors in recorded_cases(config):
        images = tensors["images"].double() if exact else tensors["images"]
        assert_same(outputs_and_inner(model, images), case, tensors, exact=exact)


def test_official_keys_and_shapes() -> None:
    official = json.loads(golden("keys_pi3.json").read_text())["keys"]
    with torch.device("meta"):
        state = build_model("pi3").state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == official


@pytest.mark.parametrize("selector", ["dense", "pairs", "pooled"])
def test_permuted_views_give_permuted_results(selector: str) -> None:
    model = recorded_model("pi3", "pi3_a1").double()
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(1, 4, 3, 42, 56, generator=generator, dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    pairs = torch.eye(4, dtype=torch.bool)
    pairs[0, 2] = pairs[2, 0] = pairs[1, 3] = pairs[3, 1] = True
    level = 2 * pairs.to(torch.int8)[None]
    depth = model.global_layers
    first_map = torch.zeros(depth, dtype=torch.int64)

    def selection(views: Tensor) -> object:
        if selector == "pairs":
            return PairSelection(level[:, views][:, :, views], first_map, 12)
        # Regions of one frame (12 patches) move with their frames, so the choice does too.
        return PooledSelection(
            dense_level()[0],
            first_map,
            torch.full((depth,), 0.5),
            torch.zeros(depth),
            model.layout(42, 56),
            q_block=12,
            k_block=12,
        )

    chosen = [selection(torch.arange(4)), selection(order)]
    with torch.inference_mode():
        if selector == "dense":
            straight, permuted = model(images), model(images[:, order])
        else:
            straight, permuted = model(images, chosen[0]), model(images[:, order], chosen[1])
            dense = model(images)
            assert (dense["points"] - straight["points"]).abs().max() > 1e-3
    for name, value in straight.items():
        torch.testing.assert_close(permuted[name], value[:, order], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("views", [1, 3])
def test_the_stages_one_after_another_are_the_model(views: int) -> None:
    model = recorded_model("pi3", "pi3_a1")
    images = torch.rand(views, 3, 28, 42, generator=torch.Generator().manual_seed(0))
    staged = run_stages(model, images)
    with torch.inference_mode():
        whole = {name: value[0] for name, value in model(images[None]).items()}
    torch.testing.assert_close(staged["local_points"], whole["local_points"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(staged["conf"], whole["conf"], rtol=1e-5, atol=1e-5)
    pose, rotation = whole["camera_poses"], rotation_from_nine(staged["rotation9"])
    torch.testing.assert_close(staged["translation"], pose[:, :3, 3], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rotation, pose[:, :3, :3], rtol=1e-5, atol=1e-5)


def test_selection_layers_count_global_layers_only() -> None:
    model = recorded_model("pi3", "pi3_a1")
    asked: list[int] = []

    def selection(layer: int, q: Tensor, k: Tensor) -> BlockMap:
        asked.append(layer)
        return BlockMap(dense_level())

    with torch.inference_mode():
        model(torch.rand(1, 2, 3, 28, 28), selection)
    assert asked == list(range(model.global_layers)) == [0, 1]


@pytest.mark.parametrize(
    "matrix",
    [
        torch.eye(3),
        -torch.eye(3),  # a reflection: all singular values equal
        torch.diag(torch.tensor([1.0, 1.0, -1.0])),
        torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]]),  # rank 2
        torch.tensor([[1.0, 2, 3], [2.0, 4, 6], [-1.0, -2, -3]]),  # rank 1
        torch.zeros(3, 3),
        torch.randn(3, 3, generator=torch.Generator().manual_seed(5)),
    ],
    ids=["identity", "minus identity", "mirror", "rank 2", "rank 1", "zero", "random"],
)
def test_nearest_rotation_is_a_rotation_even_for_degenerate_input(matrix: Tensor) -> None:
    rotation = nearest_rotation(matrix.double())
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(rotation @ rotation.T, eye, rtol=0, atol=1e-12)
    assert abs(torch.linalg.det(rotation).item() - 1.0) < 1e-12
    # No rotation of a fine sample is closer: the maximiser of trace(R^T M).
    samples = nearest_rotation(
        torch.randn(4096, 3, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    )
    best = (samples * matrix.double()).sum(dim=(1, 2)).max()
    assert (rotation * matrix.double()).sum() >= best - 1e-12
