"""Perfect predictions score perfectly in any world; broken ones are counted, not hidden."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covis.engines.errors import CovisError
from covis.evaluation import aggregate, open_dataset, score
from covis.evaluation.accuracy.scoring import ScoreOptions, score_pose
from covis.evaluation.datasets.truth import DepthArray, GroundTruth, SceneRef, sample_views
from covis.runtime.photos.preprocess import PixelTransform
from covis.runtime.scene.scene import Scene
from tests.evaluation.geometry import Float64, moved, rotation, similarities

pytest.importorskip("scipy", reason="point clouds need the extra `eval`")

H, W = 28, 42
OPTIONS = ScoreOptions(max_points=2000)


@pytest.fixture(scope="module")
def truth() -> GroundTruth:
    dataset = open_dataset("synthetic", ["room/orbit/1000003/5"], size=(H, W))
    return dataset.load(dataset.scenes()[0])


def transforms(count: int) -> list[PixelTransform]:
    same = PixelTransform((1.0, 1.0), (0.0, 0.0), (H, W), (H, W), (0, 0, H, W))
    return [same] * count


def perfect(truth: GroundTruth, similarity: tuple[Float64, Float64, float] | None = None) -> Scene:
    """The truth as a model would say it, in a world of its own."""
    r, t, scale = similarity or (np.eye(3), np.zeros(3), 1.0)
    assert truth.depth is not None and truth.intrinsics is not None
    depth = np.stack([d.depth for d in truth.depth if isinstance(d, DepthArray)])
    return Scene(
        names=tuple(f"{i}" for i in range(len(truth))),
        extrinsics=moved(truth.extrinsics, r, t, scale),
        intrinsics=truth.intrinsics,
        intrinsics_original=truth.intrinsics,
        image_size=(H, W),
        original_sizes=np.full((len(truth), 2), (H, W)),
        depth=(depth * scale).astype(np.float32),
        valid=np.ones((len(truth), H, W), bool),
    )


def test_perfect_predictions_in_any_world(truth: GroundTruth) -> None:
    rng = np.random.default_rng(0)
    for motion in (None, (rotation(rng), rng.normal(size=3) * 5, 7.5)):
        record = score(perfect(truth, motion), truth, transforms(5), OPTIONS)
        for threshold in (30, 15, 5, 3):
            assert record[f"auc{threshold}"] == record[f"auc{threshold}_directed"] == 1.0
        assert record["ate"] < 1e-5 and record["rpe_translation"] < 1e-5
        assert record["abs_rel"] < 1e-5 and record["delta_1.25"] == 1.0
        assert record["accuracy"] < 1e-4 and record["completeness"] < 1e-4
        assert record["normals"] > 0.999
        assert record["depth_pixels"] == 5 * H * W
        json.dumps(record, allow_nan=False)


def test_worse_predictions_score_worse(truth: GroundTruth) -> None:
    rng = np.random.default_rng(1)
    good = perfect(truth)
    turned = good.extrinsics.copy()
    turned[2] = rotation(rng, np.radians(10.5)) @ turned[2]
    noisy = good.depth * rng.uniform(0.7, 1.3, good.depth.shape).astype(np.float32)
    record = score(replace(good, extrinsics=turned, depth=noisy), truth, transforms(5), OPTIONS)
    best = score(good, truth, transforms(5), OPTIONS)
    # Four of ten pairs are off by ten degrees, at least.
    assert record["auc5"] == record["auc3"] == pytest.approx(0.6)
    assert record["auc15"] <= 0.6 + 0.4 * 5 / 15 + 1e-9
    assert record["abs_rel"] == pytest.approx(0.15, abs=0.02)
    for name in ("accuracy", "completeness", "chamfer", "rpe_rotation"):
        assert record[name] > best[name]
    assert record["normals"] < best["normals"]


def test_the_published_auc_takes_a_mirrored_walk_for_right(truth: GroundTruth) -> None:
    """Rotations right, all translations in the opposite direction: only `directed` minds."""
    mirrored = truth.extrinsics.copy()
    mirrored[:, :, 3] *= -1
    record = score_pose(mirrored, truth)
    assert [record[f"auc{t}"] for t in (30, 15, 5, 3)] == [1.0] * 4
    assert [record[f"auc{t}_directed"] for t in (30, 15, 5, 3)] == [0.0] * 4


@given(similarities(), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_pose_metrics_ignore_the_model_s_world(
    truth: GroundTruth, motion: tuple[Float64, Float64, float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    predicted = truth.extrinsics.copy()
    for camera in predicted:
        camera[:] = rotation(rng, rng.uniform(0, 0.3)) @ camera
        camera[:, 3] += rng.normal(size=3) * 0.2
    first = score_pose(predicted, truth)
    second = score_pose(moved(predicted, *motion), truth)
    for name, value in first.items():
        if "histograms" not in name:
            assert second[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name


def test_a_lost_camera_costs_all_its_pairs(truth: GroundTruth) -> None:
    scene = perfect(truth)
    lost = scene.extrinsics.copy()
    lost[1] = np.nan
    record = score(replace(scene, extrinsics=lost), truth, transforms(5), OPTIONS)
    assert record["lost_cameras"] == 1 and record["auc30"] == pytest.approx(0.6)
    assert record["ate"] is None and record["rpe_rotation"] is None
    assert record["accuracy"] is not None  # of the other views' points
    json.dumps(record, allow_nan=False)


def test_only_what_the_truth_knows(truth: GroundTruth) -> None:
    scene = perfect(truth)
    bare = replace(truth, depth=None, intrinsics=None)
    record = score(scene, bare, transforms(5), OPTIONS)
    assert record["auc30"] == 1.0 and "abs_rel" not in record and "accuracy" not in record
    only_depth = score(scene, truth, transforms(5), ScoreOptions(metrics=("depth",)))
    assert "abs_rel" in only_depth and "auc30" not in only_depth and "chamfer" not in only_depth


def test_a_scan_is_reached_through_the_cameras(truth: GroundTruth) -> None:
    rng = np.random.default_rng(2)
    scan = perfect(truth).points_from_depth().reshape(-1, 3).astype(np.float64)
    bare = replace(truth, depth=None, intrinsics=None, points=scan)
    scene = perfect(truth, (rotation(rng), rng.normal(size=3), 3.0))
    record = score(scene, bare, transforms(5), OPTIONS)
    assert record["accuracy"] < 1e-3 and record["completeness"] < 1e-3


def test_crops_and_scales_are_undone(truth: GroundTruth) -> None:
    """The model sees the middle half of the photo's rows, at twice the size."""
    assert truth.depth is not None and truth.intrinsics is not None
    view = PixelTransform((2.0, 2.0), (0.0, -H / 2), (H, 2 * W), (H, W), (0, 0, H, 2 * W))
    pixels = np.stack(np.meshgrid(np.arange(2 * W) + 0.5, np.arange(H) + 0.5), -1).reshape(-1, 2)
    depth = np.stack([d(view.pixels_to_original(pixels)).reshape(H, 2 * W) for d in truth.depth])
    scene = replace(
        perfect(truth),
        image_size=(H, 2 * W),
        depth=depth.astype(np.float32),
        intrinsics=view.to_model(truth.intrinsics),
        valid=np.ones((5, H, 2 * W), bool),
    )
    record = score(scene, truth, [view] * 5, OPTIONS)
    assert record["abs_rel"] < 1e-6 and record["accuracy"] < 1e-4


def test_views_are_drawn_by_seed_and_scene(truth: GroundTruth) -> None:
    four = sample_views(truth, 4, seed=1)
    assert len(four) == 4
    np.testing.assert_array_equal(four.frames, sample_views(truth, 4, seed=1).frames)
    draws = {tuple(sample_views(truth, 4, seed=s).frames) for s in range(20)}
    assert len(draws) > 10
    other = replace(truth, scene=SceneRef("other", "g"))
    assert any(
        tuple(sample_views(other, 4, seed=s).frames) != tuple(sample_views(truth, 4, seed=s).frames)
        for s in range(3)
    )
    np.testing.assert_array_equal(four.extrinsics, truth.extrinsics[four.frames])
    assert sample_views(truth, 3, "even").frames.tolist() == [0, 2, 4]
    assert len(sample_views(truth, 0)) == len(sample_views(truth, 99, "even")) == 5


def test_unusable_views_are_dropped_and_counted(truth: GroundTruth) -> None:
    broken = truth.extrinsics.copy()
    broken[[0, 3], 0, 0] = np.nan, -np.inf
    left = sample_views(replace(truth, extrinsics=broken), 0)
    assert left.dropped == 2 and left.frames.tolist() == [1, 2, 4]
    broken[[1, 2], 0, 0] = np.inf
    with pytest.raises(CovisError, match=r"has 1 usable view \(4 without a usable camera\)"):
        sample_views(replace(truth, extrinsics=broken), 0)
    with pytest.raises(CovisError, match="room/orbit/1000003/5: has 1 usable view, and a pair"):
        sample_views(truth.select(np.array([2])), 0)
    with pytest.raises(CovisError, match="has 4 frames for 5 photos"):
        replace(truth, frames=truth.frames[:4])


def test_summary_pools_pairs_and_averages_groups(truth: GroundTruth) -> None:
    rng = np.random.default_rng(3)
    records = []
    for number, (group, views) in enumerate([("a", 5), ("a", 3), ("b", 4)]):
        part = truth.select(np.arange(views))
        part = replace(part, scene=SceneRef(f"s{number}", group))
        scene = perfect(part)
        turned = scene.extrinsics.copy()
        turned[0] = rotation(rng, np.radians(10 * number)) @ turned[0]
        records.append(
            score(replace(scene, extrinsics=turned), part, transforms(views),
                  ScoreOptions(metrics=("pose",)))
        )  # fmt: skip
    summary = aggregate(reversed(records))
    pooled = (10 * records[0]["auc30"] + 3 * records[1]["auc30"]) / 13
    assert summary["groups"]["a"]["auc30"] == pytest.approx(pooled)
    assert summary["auc30"] == pytest.approx((pooled + records[2]["auc30"]) / 2)
    assert summary["scenes"] == 3 and summary["pairs"] == 10 + 3 + 6 and summary["views"] == 12
    assert summary["ate"] == pytest.approx(np.mean([r["ate"] for r in records]))
    assert summary["abs_rel"] is None
    records[0]["ate"] = None
    assert aggregate(records)["counts"]["ate"] == 2
    with pytest.raises(CovisError, match="s1: comes twice"):
        aggregate([*records, records[1]])
    assert aggregate([])["scenes"] == 0


def test_options_are_checked() -> None:
    for wrong, words in (
        ({"metrics": ()}, "nothing cannot be measured"),
        ({"metrics": ("pose", "beauty")}, "--metrics"),
        ({"max_points": 5}, "--max-points"),
        ({"icp": -1}, "--icp"),
    ):
        with pytest.raises(CovisError, match=words):
            ScoreOptions(**wrong)  # type: ignore[arg-type]
