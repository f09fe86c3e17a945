"""Samples are consistent, losses have their published form, scores are invariant."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from covis.engines.errors import CovisError
from covis.export.models.cameras import pose_to_cameras, quaternion_to_matrix
from covis.export.training.config import Phase, TrainingConfig
from covis.export.training.data import Batch, Pool, matrix_to_quaternion
from covis.export.training.evaluate import (
    auc,
    baselines,
    held_out_batch,
    pair_errors,
    score,
)
from covis.export.training.losses import ALPHA, camera_loss, map_loss
from covis.export.training.rendering import Request, View
from covis.synthetic import HELD_OUT_SEEDS, TRAINING_SEEDS_START

CONFIG = TrainingConfig(
    size=28,
    images=9,
    views_per_scene=4,
    warm_scenes=2,
    curriculum=(
        Phase(0.5, {"studio/orbit": 1.0}, (3, 3)),
        Phase(1.0, {"loop/loop": 1.0}, (3, 3)),
    ),
)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return Pool(CONFIG).batch(0)


def test_points_depth_and_poses_of_a_sample_agree(batch: Batch) -> None:
    assert batch.images.shape == (3, 3, 3, 28, 28)
    extrinsics, intrinsics = pose_to_cameras(batch.pose, 28, 28)
    torch.testing.assert_close(extrinsics, batch.extrinsics, atol=2e-6, rtol=0)
    identity = torch.eye(3, 4).expand(3, 3, 4)
    torch.testing.assert_close(batch.extrinsics[:, 0], identity, atol=1e-6, rtol=0)
    local = torch.einsum("bmij,bmhwj->bmhwi", extrinsics[..., :3], batch.points)
    local = local + extrinsics[:, :, None, None, :, 3]
    torch.testing.assert_close(local[..., 2], batch.depth, atol=2e-6, rtol=0)
    pixel = torch.einsum("bmij,bmhwj->bmhwi", intrinsics, local / local[..., 2:])
    x, y = torch.meshgrid(torch.arange(28) + 0.5, torch.arange(28) + 0.5, indexing="xy")
    assert (pixel[..., 0] - x).abs().max() < 1e-4
    assert (pixel[..., 1] - y).abs().max() < 1e-4
    mean = batch.points.norm(dim=-1).mean(dim=(1, 2, 3))
    torch.testing.assert_close(mean, torch.ones(3), atol=1e-5, rtol=0)


def test_samples_depend_on_the_step_alone(batch: Batch) -> None:
    pool = Pool(CONFIG)
    pool.batch(7)
    assert torch.equal(pool.batch(0).images, batch.images)
    assert not torch.equal(pool.batch(1).images, batch.images)


def test_scenes_come_from_training_seeds_and_from_their_phase(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from covis.export.training import data

    drawn: list[tuple[str, int]] = []
    original = data.cached

    def note(request: Request, *rest: object) -> View:
        drawn.append((request.kind, request.seed))
        return original(request, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(data, "cached", note)
    pool = Pool(CONFIG)
    for step in (0, CONFIG.steps - 1):
        pool.batch(step)
    assert all(seed >= TRAINING_SEEDS_START for _, seed in drawn)
    assert not {seed for _, seed in drawn} & set(HELD_OUT_SEEDS)
    half = TRAINING_SEEDS_START + CONFIG.warm_scenes + CONFIG.steps * CONFIG.scenes_per_step / 2
    assert all(kind == ("studio/orbit" if seed < half else "loop/loop") for kind, seed in drawn)
    assert {kind for kind, _ in drawn} == {"studio/orbit", "loop/loop"}


def test_quaternions_of_every_branch_come_back() -> None:
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(500, 4, generator=generator, dtype=torch.float64)
    half_turns = torch.eye(4, dtype=torch.float64) + 1e-9
    q = torch.nn.functional.normalize(torch.cat([q, half_turns]), dim=-1)
    rotation = quaternion_to_matrix(q)
    back = matrix_to_quaternion(rotation)
    assert (back[:, 3] >= 0).all()
    torch.testing.assert_close(quaternion_to_matrix(back), rotation, atol=1e-9, rtol=0)


def test_camera_loss_is_zero_at_either_sign_and_linear_far_out(batch: Batch) -> None:
    target = batch.pose
    negative = target.clone()
    negative[..., 3:7] *= -1
    assert camera_loss([target], target) == 0
    assert camera_loss([negative], target) == 0
    far = target.clone()
    far[..., 0] += 3.0
    assert float(camera_loss([far], target)) == pytest.approx(3.0 - 0.05, abs=1e-4)
    # Weights 0.6 and 1 of an earlier and a later refinement.
    assert float(camera_loss([far, target], target)) == pytest.approx(2.95 * 0.6 / 1.6, abs=1e-4)


def test_map_loss_by_hand() -> None:
    target = torch.zeros(1, 2, 2, 1)
    predicted = torch.tensor([[[[1.0], [1.0]], [[1.0], [3.0]]]])
    confidence = torch.full((1, 2, 2), 2.0)
    # |error|: mean 6 / 4; gradients: 0 and 2 in each direction; all times the confidence.
    expected = 2 * (1.5 + 1.0 + 1.0) - ALPHA * np.log(2.0)
    assert float(map_loss(predicted, confidence, target)) == pytest.approx(expected, abs=1e-5)


def test_pair_errors_ignore_rigid_motion_and_scale(batch: Batch) -> None:
    true = batch.extrinsics[0].double().numpy()
    q = torch.nn.functional.normalize(torch.tensor([[0.3, -0.5, 0.2, 0.7]]).double(), dim=-1)
    turn = quaternion_to_matrix(q)[0].numpy()
    moved = np.concatenate(
        [
            true[:, :, :3] @ turn,
            2.5 * (true[:, :, 3:] + true[:, :, :3] @ np.array([[1.0], [2.0], [3.0]])),
        ],
        axis=2,
    )
    rotation, translation = pair_errors(moved, true)
    assert rotation.max() < 1e-4 and translation.max() < 1e-4
    wrong = true.copy()
    c, s = np.cos(0.1), np.sin(0.1)
    wrong[1, :, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]) @ true[1, :, :3]
    rotation, _ = pair_errors(wrong, true)
    np.testing.assert_allclose(rotation, np.degrees([0.1, 0.0, 0.1]), atol=1e-4)


def test_auc_against_its_definition() -> None:
    rng = np.random.default_rng(0)
    errors = np.concatenate([rng.uniform(0, 40, 500), [0.0, 1.0, 29.999, 30.5]])
    by_hand = np.mean([np.mean(errors < t) for t in range(1, 31)])
    assert auc(errors, 30) == pytest.approx(by_hand, abs=1e-12)
    assert auc(np.zeros(5), 5) == 1.0
    assert auc(np.full(5, 90.0), 30) == 0.0


def test_perfect_poses_score_one_and_baselines_far_less() -> None:
    held_out = held_out_batch("studio/orbit", 2, 4, 28, shadows=False)

    def oracle(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        b = next(i for i in range(2) if torch.equal(held_out.images[i], images[0]))
        return held_out.pose[b : b + 1], 3.0 * held_out.depth[b : b + 1]

    perfect = score(oracle, held_out)
    assert perfect.auc == {30: 1.0, 15: 1.0, 5: 1.0, 3: 1.0}
    assert perfect.abs_rel < 1e-5 and perfect.delta == 1.0 and perfect.pairs == 12
    for estimate in baselines(CONFIG).values():
        blind = score(estimate, held_out)
        assert blind.auc[30] < 0.3 and np.isnan(blind.abs_rel)
    with pytest.raises(CovisError, match="held-out seeds"):
        held_out_batch("studio/orbit", len(HELD_OUT_SEEDS) + 1, 4, 28, shadows=False)
