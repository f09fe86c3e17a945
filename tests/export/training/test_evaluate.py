"""Estimators without the comparison of views, draws of views along a path, and scores by scene."""

from __future__ import annotations

import itertools
from typing import cast

import numpy as np
import pytest
import torch

from covis.commands.demo import demo_bundle
from covis.engines.errors import CovisError
from covis.engines.options import RunOptions, Sparsity
from covis.export.attention_analysis import model_of_bundle
from covis.export.models.cameras import pose_to_cameras
from covis.export.models.vggt import Vggt
from covis.export.training.evaluate import (
    Draw,
    dense,
    drawn_views,
    each_view_alone,
    held_out_batch,
    score,
    self_only,
)
from covis.runtime.pipeline import load


@pytest.fixture(scope="module")
def model() -> Vggt:
    return cast(Vggt, model_of_bundle(load(demo_bundle()).bundle))


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (3, 112, 112, 3), np.uint8)


@pytest.fixture(scope="module")
def images(photos: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(photos).permute(0, 3, 1, 2)[None].float() / 255


def test_self_only_is_the_schedule_of_that_name(
    model: Vggt, photos: np.ndarray, images: torch.Tensor
) -> None:
    pipeline = load(demo_bundle(), RunOptions(threads=1))
    scene = pipeline(list(photos), sparsity=Sparsity(selector="anchors", schedule="all:self"))
    whole = pipeline(list(photos), sparsity=Sparsity(selector="dense"))
    with torch.no_grad():
        pose, depth = self_only(model)(images)
    extrinsics, _ = pose_to_cameras(pose[0].double(), 112, 112)
    np.testing.assert_allclose(extrinsics.numpy(), scene.extrinsics, atol=2e-4)
    assert depth is not None
    np.testing.assert_allclose(depth[0].numpy(), scene.depth, rtol=2e-3)
    assert np.abs(whole.extrinsics - scene.extrinsics).max() > 2e-3  # the schedule has an effect


def test_a_view_alone_depends_on_no_other_view(model: Vggt, images: torch.Tensor) -> None:
    others = images.clone()
    others[:, :2] = others[:, :2].flip(-1)
    with torch.no_grad():
        pose, depth = each_view_alone(model)(images)
        changed, changed_depth = each_view_alone(model)(others)
        first, first_depth = dense(model)(images[:, :1])
        together, _ = self_only(model)(images)
        moved, _ = self_only(model)(others)
    assert depth is not None and changed_depth is not None and first_depth is not None
    assert torch.equal(pose[:, 2], changed[:, 2]) and torch.equal(depth[:, 2], changed_depth[:, 2])
    assert not torch.allclose(pose[:, 1], changed[:, 1], atol=1e-4)
    assert torch.equal(pose[:, :1], first) and torch.equal(depth[:, :1], first_depth)
    # Under the schedule `self`, the special tokens still carry something to the third view.
    assert not torch.equal(together[:, 2], moved[:, 2])


def test_views_alone_have_the_tokens_of_their_slot(model: Vggt, images: torch.Tensor) -> None:
    """A model whose slots are equal gives a view the same pose at every place in the sequence."""
    aggregator = model.aggregator
    kept = [t.detach().clone() for t in (aggregator.camera_token, aggregator.register_token)]
    assert (kept[0][:, 0] - kept[0][:, 1]).abs().max() > 1e-3
    with torch.no_grad():
        reference = dense(model)(images[:, 2:])[0][:, 0]
        assert not torch.allclose(each_view_alone(model)(images)[0][:, 2], reference, atol=1e-4)
        try:
            for token in (aggregator.camera_token, aggregator.register_token):
                token[:, 0] = token[:, 1]
            other = dense(model)(images[:, 2:])[0][:, 0]
            found = each_view_alone(model)(images)[0][:, 2]
        finally:
            aggregator.camera_token.copy_(kept[0])
            aggregator.register_token.copy_(kept[1])
        whole = each_view_alone(model)(images)[0][:, 2]
    torch.testing.assert_close(found, other, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole, other, atol=1e-5, rtol=0)


def test_draws_of_views_along_a_path() -> None:
    seeds = range(1_000_000, 1_000_040)
    starts = set()
    for seed in seeds:
        near = drawn_views("neighbours", 12, 4, seed)
        assert np.ptp(near) == 3 and len(set(near.tolist())) == 4
        starts.add(int(near.min()))
        assert sorted(drawn_views("spread", 12, 4, seed).tolist()) == [0, 4, 7, 11]
        assert sorted(drawn_views("spread", 5, 5, seed).tolist()) == [0, 1, 2, 3, 4]
    assert starts == set(range(9))
    for draw in ("random", "neighbours", "spread"):
        orders = {tuple(drawn_views(cast(Draw, draw), 12, 3, seed)) for seed in seeds}
        assert len(orders) > 3  # the reference view is not always the same place
    with pytest.raises(CovisError, match="is no way to draw views"):
        drawn_views(cast(Draw, "all"), 12, 3, 0)


def test_more_views_than_the_usual_path_and_close_views() -> None:
    many = held_out_batch("studio/orbit", 1, 14, 28, shadows=False)
    assert many.images.shape == (1, 14, 3, 28, 28)
    near, far = (
        held_out_batch("loop/loop", 2, 3, 28, shadows=False, draw=cast(Draw, draw))
        for draw in ("neighbours", "spread")
    )
    apart = []
    for batch in (near, far):
        metres = batch.extrinsics[..., 3] * batch.scale[:, None, None]
        centre = -(batch.extrinsics[..., :3].transpose(-1, -2) @ metres[..., None])[..., 0]
        pairs = itertools.combinations(range(3), 2)
        apart.append(max(float((centre[:, i] - centre[:, j]).norm(dim=-1).max()) for i, j in pairs))
    assert apart[0] < 0.75 * apart[1]


def test_the_standard_error_is_that_over_scenes() -> None:
    """One scene of three without error, the others at 90 degrees: AUC 1, 0, 0."""
    batch = held_out_batch("studio/orbit", 3, 3, 28, shadows=False)

    def estimate(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        if torch.equal(images[0], batch.images[0]):
            return batch.pose[:1], None
        identity = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 1, 1])
        return identity.expand(1, 3, 9), None

    found = score(estimate, batch)
    assert found.auc[30] == pytest.approx(1 / 3) and found.scenes == 3
    assert found.standard_error == pytest.approx(np.std([1, 0, 0], ddof=1) / np.sqrt(3))
    assert found.record()["auc@30_standard_error"] == pytest.approx(1 / 3, abs=1e-4)
    one = score(estimate, held_out_batch("studio/orbit", 1, 3, 28, shadows=False))
    assert np.isnan(one.standard_error) and one.record()["auc@30_standard_error"] is None
