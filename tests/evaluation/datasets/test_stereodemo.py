"""Rectified pairs: the right camera stands along x, and pixels match as the baseline says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from covis.cli import run_command
from covis.commands.demo import demo_bundle
from covis.engines.errors import CovisError
from covis.evaluation.datasets import open_dataset
from covis.evaluation.datasets.truth import GroundTruth

pytest.importorskip("scipy", reason="rigs are written with scipy")
from tests.evaluation.datasets.layouts import Known, save_png
from tests.evaluation.datasets.rigs import BASELINE, known_pair, write_stereodemo


@pytest.fixture(scope="module")
def scene() -> Known:
    return known_pair(72, 96)


@pytest.fixture
def root(tmp_path: Path, scene: Known) -> Path:
    write_stereodemo(tmp_path, scene)
    return tmp_path


def load(root: Path, name: str = "oak-d/desk") -> GroundTruth:
    dataset = open_dataset("stereodemo", [str(root)])
    return dataset.load(next(ref for ref in dataset.scenes() if ref.name == name))


def test_pairs_are_found_from_any_folder_above(root: Path) -> None:
    names = ["middlebury_2014/Piano", "oak-d/desk"]
    for place in (root, root / "datasets"):
        found = open_dataset("stereodemo", [str(place)]).scenes()
        assert [ref.name for ref in found] == names
        assert [ref.group for ref in found] == ["middlebury_2014", "oak-d"]
    (only,) = open_dataset("stereodemo", [str(root / "datasets" / "oak-d")]).scenes()
    assert only.name == "oak-d/desk"
    calibration = root / "datasets" / "oak-d" / "stereodemo_calibration.json"
    calibration.rename(calibration.with_name("stereo_calibration.json"))
    assert len(open_dataset("stereodemo", [str(root)]).scenes()) == 2


@pytest.mark.parametrize("name", ["oak-d/desk", "middlebury_2014/Piano"])
def test_cameras(root: Path, scene: Known, name: str) -> None:
    truth = load(root, name)
    assert truth.intrinsics is not None and truth.depth is None
    np.testing.assert_allclose(truth.intrinsics, scene.intrinsics, atol=1e-9)
    np.testing.assert_array_equal(truth.extrinsics[0], np.eye(3, 4))
    # Relative pose of the rendered cameras, in another world.
    rotation = scene.extrinsics[1, :, :3] @ scene.extrinsics[0, :, :3].T
    shift = scene.extrinsics[1, :, 3] - rotation @ scene.extrinsics[0, :, 3]
    np.testing.assert_allclose(truth.extrinsics[1, :, :3], rotation, atol=1e-9)
    np.testing.assert_allclose(truth.extrinsics[1, :, 3], shift, atol=1e-9)


def test_right_photo_is_seen_from_the_right(root: Path, scene: Known) -> None:
    """Points of the left photo, projected by the reader's cameras, have the right one's colours."""
    truth = load(root)
    assert truth.intrinsics is not None
    left, right = (np.asarray(Image.open(path)).astype(float) for path in truth.images)
    v, u = np.mgrid[:72, :96] + 0.5
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(truth.intrinsics[0]).T

    def difference(e: Any) -> float:
        points = rays * scene.depth[0][..., None] @ e[:, :3].T + e[:, 3]
        pixels = points @ truth.intrinsics[1].T
        x, y = np.floor(pixels[..., :2] / pixels[..., 2:]).astype(int).transpose(2, 0, 1)
        inside = (x >= 0) & (y >= 0) & (x < 96) & (y < 72)
        return float(np.abs(right[y[inside], x[inside]] - left[inside]).mean())

    away = truth.extrinsics[1].copy()
    away[0, 3] = BASELINE
    assert difference(truth.extrinsics[1]) < 0.5 * difference(away)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cx1": None}, r"json: is damaged \("),
        ({"fx": "wide"}, r"json: is damaged \(could not convert"),
        ({"fx": float("nan")}, r"json: is damaged \(sizes, focal lengths and baseline"),
        ({"baseline_meters": -0.1}, r"json: is damaged \(sizes, focal lengths and baseline"),
        ({"width": 640}, r"desk_left.png: has 96 x 72 pixels, its calibration 640 x 72; get"),
    ],
)
def test_contradictory_calibrations(root: Path, change: dict[str, Any], message: str) -> None:
    path = root / "datasets" / "oak-d" / "stereodemo_calibration.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CovisError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_missing_numbers_and_photos(root: Path, scene: Known) -> None:
    home = root / "datasets" / "oak-d"
    path = home / "stereodemo_calibration.json"
    whole = json.loads(path.read_text())
    for content, message in (
        ({k: v for k, v in whole.items() if k != "cx1"}, "is damaged .no number 'cx1'."),
        ([1, 2], "is damaged"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(CovisError, match=message):
            load(root)
    path.write_text(json.dumps(whole))
    save_png(home / "desk_right.png", scene.images[1][:-1])
    with pytest.raises(CovisError, match=r"desk_right.png: has 96 x 71 pixels"):
        load(root)
    (home / "desk_right.png").unlink()
    with pytest.raises(CovisError, match=r"desk_left.png: is missing: no desk_right.png beside it"):
        load(root)
    (home / "desk_left.png").unlink()
    with pytest.raises(CovisError, match=r"is missing: no stereodemo_calibration\.json with"):
        open_dataset("stereodemo", [str(home)]).scenes()


def test_through_the_command(root: Path, tmp_path: Path) -> None:
    """Pose alone: a pair has no depth, and no ATE, because two centres always align."""
    out = tmp_path / "out"
    command = ["eval", str(demo_bundle()), "stereodemo", str(root), "--out", str(out)]
    assert run_command([*command, "--views", "0", "--threads", "1"]) == 0
    records = json.loads((out / "results.json").read_text())["scenes"]
    assert [record["scene"] for record in records] == ["middlebury_2014/Piano", "oak-d/desk"]
    for record in records:
        assert record["pairs"] == 1 and record["ate"] is None
        assert 0 <= record["rotation_median"] <= 180 and "abs_rel" not in record
    # Both folders have the same photos.
    assert records[0]["rotation_median"] == records[1]["rotation_median"]
