"""Every reader on a tiny folder of its layout: known cameras, depth and photos come back."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from covis.engines.errors import CovisError
from covis.evaluation.datasets import open_dataset
from covis.evaluation.datasets.co3d import Co3d, camera
from covis.evaluation.datasets.dtu import decompose
from covis.evaluation.datasets.tanks_temples import Crop
from covis.evaluation.datasets.truth import GroundTruth, sample_views
from tests.evaluation.geometry import rotation

pytest.importorskip("scipy", reason="readers need the extra `eval`")
pytest.importorskip("pycolmap", reason="readers need the extra `eval`")
from tests.evaluation.datasets import layouts
from tests.evaluation.datasets.layouts import Float64, H, Known, W, known


@pytest.fixture(scope="module")
def scene() -> Known:
    return known()


def load(name: str, root: Path, title: str) -> GroundTruth:
    """The only scene of that title."""
    dataset = open_dataset(name, [str(root)])
    (ref,) = [ref for ref in dataset.scenes() if ref.name == title]
    truth = dataset.load(ref)
    assert truth.scene == ref and dataset.settings()["paths"] == [str(root)]
    return truth


def check_cameras(truth: GroundTruth, scene: Known, views: list[int]) -> None:
    np.testing.assert_allclose(truth.extrinsics, scene.extrinsics[views], atol=1e-6)
    if truth.intrinsics is not None:
        factor = photo(truth, 0).shape[0] / H
        expected = np.diag([factor, factor, 1]) @ scene.intrinsics[views]
        np.testing.assert_allclose(truth.intrinsics, expected, atol=1e-5)


def photo(truth: GroundTruth, i: int) -> Any:
    path = truth.images[i]
    assert isinstance(path, Path)
    with Image.open(path) as image:
        return np.asarray(image)


def check_photos(truth: GroundTruth, scene: Known, views: list[int]) -> None:
    """Identify each photo as the nearest of all in colour."""
    for i, view in enumerate(views):
        image = photo(truth, i).astype(float)
        factor = image.shape[0] // H
        distances = [
            np.abs(image[factor // 2 :: factor, factor // 2 :: factor] - other).mean()
            for other in scene.images.astype(float)
        ]
        assert int(np.argmin(distances)) == view


def check_depth(truth: GroundTruth, scene: Known, views: list[int], error: float) -> float:
    """Points from the reader's depth and cameras are the known ones; the share of known pixels."""
    assert truth.depth is not None and truth.intrinsics is not None
    v, u = np.mgrid[:H, :W] + 0.5
    shares = []
    for i, view in enumerate(views):
        factor = photo(truth, i).shape[0] / H
        pixels = np.stack([u.ravel(), v.ravel()], axis=-1) * factor
        depth = truth.depth[i](pixels)
        rays = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)
        camera = depth[:, None] * np.linalg.solve(truth.intrinsics[i], rays.T).T
        e = truth.extrinsics[i]
        points = (camera - e[:, 3]) @ e[:, :3]
        seen = np.isfinite(depth)
        expected = scene.points[view].reshape(-1, 3)[seen]
        np.testing.assert_allclose(points[seen], expected, atol=error)
        shares.append(seen.mean())
    return float(np.mean(shares))


@pytest.mark.parametrize("isotropic", [True, False])
def test_co3d(tmp_path: Path, scene: Known, isotropic: bool) -> None:
    layouts.write_co3d(tmp_path, scene, isotropic=isotropic)
    dataset = Co3d((str(tmp_path),), min_frames=2)
    (ref,) = dataset.scenes()
    assert ref.name == "apple/110_1_2" and ref.group == "apple"
    truth = dataset.load(ref)
    everything = list(range(4))
    check_cameras(truth, scene, everything)
    check_photos(truth, scene, everything)
    assert check_depth(truth, scene, everything, error=6e-3) == pytest.approx(1 - 1 / H)
    # A category is a dataset too; without set lists, all good sequences count.
    shutil.rmtree(tmp_path / "apple" / "set_lists")
    names = [ref.name for ref in Co3d((str(tmp_path / "apple"),), min_frames=2).scenes()]
    assert names == ["apple/110_1_2", "apple/train_1_2"]
    with pytest.raises(CovisError, match="is missing: no sequence to evaluate"):
        Co3d((str(tmp_path),)).scenes()  # 50 frames are the protocol's fewest


def test_co3d_cameras_project_as_pytorch3d_does(tmp_path: Path, scene: Known) -> None:
    """A principal point off the middle, and PyTorch3D's own projection by its documentation."""
    off = scene.intrinsics.copy()
    off[:, 0, 2] += 3.0
    off[:, 1, 2] -= 2.0
    record = layouts._co3d_frame(replace(scene, intrinsics=off), 0, "s", "i", "d", "m", True)
    extrinsics, intrinsics = camera(record)
    view = record["viewpoint"]
    points = np.random.default_rng(0).normal(size=(20, 3))
    local = points @ np.array(view["R"]) + np.array(view["T"])
    ndc = np.array(view["focal_length"]) * local[:, :2] / local[:, 2:] + view["principal_point"]
    screen = np.array([W, H]) / 2 - ndc * min(H, W) / 2
    ours = (points @ extrinsics[:, :3].T + extrinsics[:, 3]) @ intrinsics.T
    np.testing.assert_allclose(ours[:, :2] / ours[:, 2:], screen, atol=1e-9)


@pytest.mark.parametrize("frames", ["frames/test", "test", "images/test"])
def test_realestate10k(tmp_path: Path, scene: Known, frames: str) -> None:
    layouts.write_realestate10k(tmp_path, scene, frames)
    truth = load("realestate10k", tmp_path, "0a1b2c")
    check_cameras(truth, scene, [0, 2, 3])
    check_photos(truth, scene, [0, 2, 3])
    assert truth.depth is None and truth.frames.tolist() == [0, 2, 3]


def test_seven_scenes(tmp_path: Path) -> None:
    scene = known(2, fov=2 * np.arctan(240 / 585))
    layouts.write_seven_scenes(tmp_path, scene)
    assert [s.name for s in open_dataset("7scenes", [str(tmp_path)]).scenes()] == ["chess/seq-03"]
    truth = load("7scenes", tmp_path / "chess", "chess/seq-03")
    check_cameras(truth, scene, [0, 1])
    check_photos(truth, scene, [0, 1])
    share = check_depth(truth, scene, [0, 1], error=2e-3)
    assert share == pytest.approx((H - 1) * (W - 1) / (H * W))
    for path in (tmp_path / "chess").rglob("*.depth.png"):
        path.rename(path.with_name(path.name.replace(".depth.png", ".depth.proj.png")))
    registered = load("7scenes", tmp_path, "chess/seq-03")
    assert registered.intrinsics is not None and registered.intrinsics[0, 0, 0] == 525


def test_nrgbd(tmp_path: Path, scene: Known) -> None:
    layouts.write_nrgbd(tmp_path, scene)
    whole = load("nrgbd", tmp_path, "whiteroom")
    assert np.isnan(whole.extrinsics[2]).all() and len(whole) == 4
    truth = sample_views(whole, 0)
    assert truth.dropped == 1
    check_cameras(truth, scene, [0, 1, 3])
    check_photos(truth, scene, [0, 1, 3])
    assert check_depth(truth, scene, [0, 1, 3], error=2e-3) == 1.0
    (tmp_path / "whiteroom" / "depth").rename(tmp_path / "whiteroom" / "depth_filtered")
    (tmp_path / "whiteroom" / "poses.txt").rename(tmp_path / "whiteroom" / "trainval_poses.txt")
    check_cameras(sample_views(load("nrgbd", tmp_path, "whiteroom"), 0), scene, [0, 1, 3])


def test_scannet(tmp_path: Path, scene: Known) -> None:
    layouts.write_scannet(tmp_path, scene)
    truth = sample_views(load("scannet", tmp_path, "scene0707_00"), 0)
    assert truth.dropped == 1 and truth.frames.tolist() == [0, 2, 3]
    check_cameras(truth, scene, [0, 2, 3])
    check_photos(truth, scene, [0, 2, 3])
    share = check_depth(truth, scene, [0, 2, 3], error=2e-3)
    assert share == pytest.approx((H - 2) * (W - 3) / (H * W))


def test_eth3d(tmp_path: Path, scene: Known) -> None:
    """Depth of the distorted photo, of a slanted plane before each camera, at undistorted rays."""
    normal = np.array([0.2, -0.3, 1.0])

    def depth(view: int, rays: Float64) -> Float64:
        return np.asarray((2.0 + view) / (rays @ normal))

    layouts.write_eth3d(tmp_path, scene, depth)
    truth = load("eth3d", tmp_path, "pipes")
    check_cameras(truth, scene, [0, 1, 2, 3])
    check_photos(truth, scene, [0, 1, 2, 3])
    assert truth.depth is not None and truth.intrinsics is not None
    v, u = np.mgrid[:H, :W] + 0.5
    pixels = np.stack([u.ravel(), v.ravel()], axis=-1)
    for i in range(4):
        k = truth.intrinsics[i]
        rays = np.concatenate([(pixels - k[:2, 2]) / [k[0, 0], k[1, 1]], np.ones((H * W, 1))], 1)
        found, expected = truth.depth[i](pixels), depth(i, rays)
        seen = np.isfinite(found)
        assert seen.mean() > 0.8
        # The nearest of the fisheye's pixels is up to 0.7 of a pixel off, on a slanted plane.
        relative = np.abs(found - expected)[seen] / expected[seen]
        assert relative.max() < 0.05 and np.median(relative) < 0.01
    shutil.rmtree(tmp_path / "pipes" / "ground_truth_depth")
    assert load("eth3d", tmp_path, "pipes").depth is None


@pytest.mark.parametrize("model", [True, False])
def test_tanks_temples(tmp_path: Path, scene: Known, model: bool) -> None:
    rng = np.random.default_rng(0)
    scan = scene.points.reshape(-1, 3)
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = 0.3 * rotation(rng), rng.normal(size=3)
    layouts.write_tanks_temples(tmp_path, scene, model=model, scan=scan, motion=motion)
    truth = load("tanks_temples", tmp_path, "Barn")
    check_cameras(truth, scene, [0, 1, 2, 3])
    check_photos(truth, scene, [0, 1, 2, 3])
    assert (truth.intrinsics is not None) == model
    assert truth.points is not None and truth.judged is not None
    kept = scan[scan[:, 0] < 0]
    assert 0 < len(kept) < len(scan)
    np.testing.assert_allclose(truth.points, kept, atol=1e-5)
    np.testing.assert_array_equal(truth.judged(scan), scan[:, 0] < 0)


def test_crop_polygons() -> None:
    """A concave one, along each axis."""
    corners = np.array([[0, 0], [4, 0], [4, 4], [2, 1], [0, 4.0]])
    points = np.array([[1, 1], [2, 0.5], [2, 2], [3.8, 3], [-1, 1], [5, 1.0]])
    expected = [True, True, False, True, False, False]
    for axis in range(3):
        crop = Crop(axis, -1.0, 1.0, corners)
        inside = np.insert(points, axis, 0.5, axis=1)
        assert crop(inside).tolist() == expected
        assert not crop(np.insert(points, axis, 1.5, axis=1)).any()


@pytest.mark.parametrize("mvsnet", [True, False])
def test_dtu(tmp_path: Path, scene: Known, mvsnet: bool) -> None:
    scan = scene.points[:, ::3, ::3].reshape(-1, 3)
    layouts.write_dtu(tmp_path, scene, mvsnet=mvsnet, scan=scan)
    truth = load("dtu", tmp_path, "scan4")
    check_cameras(truth, scene, [0, 1, 2, 3])
    check_photos(truth, scene, [0, 1, 2, 3])
    assert truth.points is not None and truth.judged is not None and truth.demanded is not None
    np.testing.assert_allclose(truth.points, scan, atol=1e-4)
    assert truth.max_distance == 20.0 and truth.cut_distances
    judged = truth.judged(scan)
    middle = (scan[:, 0].min() - 1 + scan[:, 0].max() + 1) / 2
    clear = np.abs(scan[:, 0] - middle) > 1.0
    np.testing.assert_array_equal(judged[clear], scan[clear, 0] < middle)
    assert not truth.judged(scan + 100).any()
    np.testing.assert_array_equal(truth.demanded(scan), -scan[:, 1] - 0.01 > 0)


def test_projection_matrices_decompose(scene: Known) -> None:
    for k, e in zip(scene.intrinsics, scene.extrinsics, strict=True):
        skewed = k + np.array([[0, 0.3, 0], [0, 0, 0], [0, 0, 0]])
        found = decompose(-0.01 * skewed @ e)
        np.testing.assert_allclose(found[0], skewed, atol=1e-9)
        np.testing.assert_allclose(found[1], e, atol=1e-9)
    for nothing in (np.zeros((3, 4)), np.full((3, 4), np.nan)):
        assert all(np.isnan(part).all() for part in decompose(nothing))
