"""True matches between views, and the losses that use them."""

from __future__ import annotations

import math

import pytest
import torch

from covis.export.ops import TokenLayout
from covis.export.training.config import Phase, TrainingConfig
from covis.export.training.correspondences import Correspondences, correspondences
from covis.export.training.data import Batch, Pool, normalised
from covis.export.training.losses import attention_loss, flow_loss, targets

SIDE = 56  # four by four patches


def _wall(shift: float, occluder: bool = False) -> Batch:
    """Return two cameras, `shift` apart along x, in front of a wall 2 m away; 90 degrees of view.

    With an occluder, the second view sees something nearer everywhere.
    """
    depth = torch.full((1, 2, SIDE, SIDE), 2.0)
    if occluder:
        depth[:, 1] = 1.0
    extrinsics = torch.eye(3, 4).repeat(1, 2, 1, 1)
    extrinsics[0, 1, 0, 3] = -shift
    intrinsics = torch.tensor([[SIDE / 2, 0, SIDE / 2], [0, SIDE / 2, SIDE / 2], [0, 0, 1.0]])
    return normalised(
        {
            "images": torch.zeros(1, 2, 3, SIDE, SIDE),
            "depth": depth,
            "intrinsics": intrinsics.repeat(1, 2, 1, 1),
            "extrinsics": extrinsics,
        }
    )


def test_a_shifted_wall_moves_by_one_patch() -> None:
    # The image is 4 m wide at the wall, so a shift of 1 m is one patch of four.
    matches = correspondences(_wall(1.0))
    patch = torch.arange(16).reshape(4, 4)
    assert torch.equal(matches.patch[0, 0, 1].reshape(4, 4)[:, 1:], patch[:, :3])
    assert torch.equal(matches.patch[0, 1, 0].reshape(4, 4)[:, :3], patch[:, 1:])
    seen = matches.visible[0, 0, 1].reshape(4, 4)
    assert seen[:, 1:].all() and not seen[:, 0].any()
    # Pixel 7 is the centre of pixels 0 to 13 up to half a pixel.
    centre = matches.position[0, 0, 0].reshape(4, 4, 2)
    assert centre[0, 0].tolist() == pytest.approx([-1 + 7.5 / 28] * 2, abs=1e-5)
    moved = matches.position[0, 0, 1].reshape(4, 4, 2)
    assert float((centre - moved)[0, 2, 0]) == pytest.approx(0.5, abs=1e-5)


def test_what_stands_before_a_point_hides_it() -> None:
    assert correspondences(_wall(1.0)).visible[0, 0, 1].any()
    assert not correspondences(_wall(1.0, occluder=True)).visible[0, 0, 1].any()


def test_matches_of_a_rendered_scene_are_mutual() -> None:
    config = TrainingConfig(
        size=112,
        images=8,
        views_per_scene=4,
        warm_scenes=1,
        curriculum=(Phase(1.0, {"studio/orbit": 1.0}, (4, 4)),),
    )
    batch = Pool(config).batch(0)
    matches = correspondences(batch)
    own = torch.arange(4)
    assert matches.visible[:, own, own].float().mean() > 0.99
    assert torch.equal(
        matches.patch[:, own, own], torch.arange(64).expand(matches.patch.shape[0], 4, 64)
    )
    # The point at a match is the point itself, but for the size of a pixel.
    b, i, j, p = matches.visible.nonzero(as_tuple=True)
    pixel = ((matches.position[b, i, j, p] + 1) / 2 * 112).long()
    there = batch.points[b, j, pixel[:, 1], pixel[:, 0]]
    distance = (there - matches.points[b, i, p]).norm(dim=-1)
    assert float(distance.median()) < 0.02
    assert float((distance < 0.15).float().mean()) > 0.97


def _matches(visible: torch.Tensor, patch: torch.Tensor) -> Correspondences:
    views, patches = visible.shape[1], visible.shape[3]
    return Correspondences(
        torch.zeros(*visible.shape, 2), patch, visible, torch.zeros(1, views, patches, 3)
    )


def test_a_patch_attends_to_view_0_if_it_can_and_else_to_all_others() -> None:
    visible = torch.zeros(1, 3, 3, 2, dtype=torch.bool)
    visible[0, 1, 0, 0] = visible[0, 1, 2, 0] = True  # view 0 sees it, so view 2 does not count
    visible[0, 1, 2, 1] = True  # view 2 alone sees it
    visible[0, 0, 1, 0] = visible[0, 0, 2, 0] = True  # view 0 itself attends to all others
    visible[0, 2, 2] = True  # a view is no neighbour of its own
    chosen = targets(_matches(visible, torch.zeros(1, 3, 3, 2, dtype=torch.int64)))
    where = {tuple(at) for at in chosen[0].nonzero().tolist()}
    assert where == {(1, 0, 0), (1, 2, 1), (0, 1, 0), (0, 2, 0)}


def test_attention_loss_is_minus_the_logarithm_of_the_mass_on_the_match() -> None:
    layout = TokenLayout(frame_tokens=3, special_first=1)
    # One feature: the score of a key is its number times the query's.
    keys = torch.tensor([0.0, 1.0, 2.0, 0.5, 3.0, -1.0]).reshape(1, 6, 1)
    queries = torch.zeros(1, 6, 1)
    queries[0, 4] = 1.0  # patch 0 of view 1
    visible = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    visible[0, 1, 0, 0] = True
    patch = torch.zeros(1, 2, 2, 2, dtype=torch.int64)
    patch[0, 1, 0, 0] = 1  # patch 1 of view 0 is key 2
    loss, accuracy = attention_loss(queries, keys, layout, _matches(visible, patch))
    by_hand = math.log(sum(math.exp(x) for x in keys.flatten().tolist())) - 2.0
    assert float(loss) == pytest.approx(by_hand, abs=1e-6)
    assert accuracy == 1.0  # key 2 is the best patch of view 0
    patch[0, 1, 0, 0] = 0
    _, accuracy = attention_loss(queries, keys, layout, _matches(visible, patch))
    assert accuracy == 0.0


def test_views_that_share_nothing_give_no_loss_and_no_nan() -> None:
    layout = TokenLayout(frame_tokens=3, special_first=1)
    q = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    nothing = _matches(
        torch.zeros(1, 2, 2, 2, dtype=torch.bool), torch.zeros(1, 2, 2, 2, dtype=torch.int64)
    )
    loss, _ = attention_loss(q, q, layout, nothing)
    loss.backward()
    assert loss == 0 and q.grad is not None and not q.grad.any()
    assert flow_loss(torch.ones(1, 2, 2, 2), nothing) == 0


def test_flow_loss_counts_visible_patches_of_other_views() -> None:
    visible = torch.zeros(1, 3, 3, 2, dtype=torch.bool)
    visible[0, 1, 0] = True
    visible[0, 0, 0] = True  # view 0 itself does not count
    predicted = torch.full((1, 3, 2, 2), 100.0)
    predicted[0, 1, 0] = torch.tensor([3.0, 4.0])
    predicted[0, 1, 1] = torch.tensor([0.0, 1.0])
    matches = _matches(visible, torch.zeros(1, 3, 3, 2, dtype=torch.int64))
    assert float(flow_loss(predicted, matches)) == pytest.approx(3.0, abs=1e-5)
