"""Maps with a fixed number of pairs, and true co-visibility."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covis.engines.errors import CovisError
from covis.evaluation.datasets.covisibility import true_covisibility
from covis.evaluation.datasets.synthetic import SyntheticScenes
from covis.evaluation.sweep.pairs import pair_map, random_score
from covis.synthetic import HELD_OUT_SEEDS, SceneSpec, build, camera_path, render

SEED = HELD_OUT_SEEDS.start


@given(
    views=st.integers(1, 12),
    share=st.floats(0.01, 1.0),
    reference=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_best_pairs_within_the_share(
    views: int, share: float, reference: bool, seed: int
) -> None:
    score = np.random.default_rng(seed).normal(size=(views, views))
    level = pair_map(score, share, reference=reference)
    kept = level > 0
    assert set(np.unique(level)) <= {0, 2} and (kept == kept.T).all() and kept.diagonal().all()
    always = np.eye(views, dtype=bool)
    if reference:
        always[0] = always[:, 0] = True
    assert kept[always].all()
    budget = np.floor(share * views**2 + 1e-9)
    assert kept.sum() <= max(budget, always.sum())
    assert kept.sum() > min(budget, views**2) - 2  # a pair comes in both orders
    mean = (score + score.T) / 2
    chosen, left = kept & ~always, ~kept
    if chosen.any() and left.any():
        assert mean[chosen].min() >= mean[left].max()


def test_scores_of_one_count_differ_only_in_which_pairs() -> None:
    counts = {int((pair_map(random_score(24, seed), 0.126) > 0).sum()) for seed in range(5)}
    assert counts == {72}  # 12.6 % of 576 is 72.6
    np.testing.assert_array_equal(random_score(9, 3), random_score(9, 3))
    assert (random_score(9, 3) != random_score(9, 4)).any()


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01, float("nan")])
def test_what_is_no_share(share: float) -> None:
    with pytest.raises(CovisError, match=r"is not in \(0, 1\]"):
        pair_map(np.eye(3), share)


@pytest.mark.parametrize("path", ["scatter", "orbit"])
def test_covisibility_from_depth_is_the_renderer_s(path: str) -> None:
    """Another code on other data (sampled depth instead of surfaces) finds the same shares."""
    dataset = SyntheticScenes((f"studio/{path}/{SEED}/8",), (96, 96), shadows=False)
    truth = dataset.load(dataset.scenes()[0])
    ours = true_covisibility(truth, np.full((8, 2), 96))
    world = build(SceneSpec(SEED, "studio"))
    scene = render(world, camera_path(world, 8, path), 96, 96, shadows=False)  # type: ignore[arg-type]
    exact = np.asarray(scene.covisibility)
    assert ours is not None
    np.testing.assert_array_equal(ours.diagonal(), 1.0)
    assert np.abs(ours - exact).max() < 0.12 and np.abs(ours - exact).mean() < 0.02
    assert ((ours > 0.05) == (exact > 0.05)).mean() > 0.93


def test_covisibility_without_depth_is_unknown() -> None:
    from dataclasses import replace

    dataset = SyntheticScenes((f"studio/orbit/{SEED}/3",), (28, 28), shadows=False)
    truth = dataset.load(dataset.scenes()[0])
    sizes = np.full((3, 2), 28)
    assert true_covisibility(replace(truth, depth=None), sizes) is None
    assert true_covisibility(replace(truth, intrinsics=None), sizes) is None
    blind = (lambda pixels: np.full(len(pixels), np.nan), *truth.depth[1:])  # type: ignore[index]
    seen = true_covisibility(replace(truth, depth=blind), sizes)
    assert seen is not None
    assert (seen[0] == [1, 0, 0]).all() and (seen[:, 0] == [1, 0, 0]).all()
