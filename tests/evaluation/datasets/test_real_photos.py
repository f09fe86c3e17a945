"""The readers on the real photos of the packages `stereodemo` and `pose2sim`.

Both are fetched once into `build/real-photos`; where they cannot be, the tests are skipped.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from covis.evaluation.datasets import open_dataset
from covis.evaluation.datasets.files import pinhole
from covis.evaluation.datasets.truth import GroundTruth
from tests.places import ROOT

pytest.importorskip("av", reason="videos need the extra `video`")

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
FOLDER = ROOT / "build" / "real-photos"
SECONDS = 150


def fetch(folder: Path) -> str:
    """Install the packages into a folder, without what they need; returns why it did not work."""
    pip = ("install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile")
    pip += ("--ignore-requires-python", "--target", str(folder), "-r", str(REQUIREMENTS))
    programs = [(sys.executable, "-m", "pip")]
    programs += [(path,) for path in map(shutil.which, ("pip", "pip3")) if path]
    reason = ""
    for program in programs:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            done = subprocess.run([*program, *pip], capture_output=True, text=True, check=False,
                                  timeout=SECONDS)  # fmt: skip
        except subprocess.TimeoutExpired:
            reason = f"pip took over {SECONDS} seconds"
            continue
        if done.returncode == 0:
            return ""
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
    shutil.rmtree(folder, ignore_errors=True)
    return reason


@pytest.fixture(scope="module")
def real() -> Path:
    """The folder of both packages."""
    FOLDER.parent.mkdir(exist_ok=True)
    mark = FOLDER / "requirements.txt"
    with FileLock(f"{FOLDER}.lock"):
        if not mark.is_file() or mark.read_bytes() != REQUIREMENTS.read_bytes():
            reason = fetch(FOLDER)
            if reason:
                pytest.skip(f"stereodemo and pose2sim cannot be fetched: {reason}")
            shutil.copy(REQUIREMENTS, mark)
    return FOLDER


def gradient(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Size of the brightness' change at each pixel."""
    return np.hypot(*np.gradient(image))


def best_disparity(truth: GroundTruth) -> tuple[int, int]:
    """Shift (rows, columns) of the right photo whose edges match those of the left one best."""
    left, right = (gradient(np.asarray(Image.open(path), float)) for path in truth.images)
    inner = np.s_[40:-40, 100:-100]
    scores = {
        (rows, columns): (left[inner] * np.roll(right, (rows, columns), axis=(0, 1))[inner]).sum()
        for rows in (-3, 0, 3)
        for columns in range(-60, 61, 2)
    }
    return max(scores, key=scores.__getitem__)


def test_stereodemo_pairs_are_rectified_and_left_is_left(real: Path) -> None:
    """The right photo's edges lie to the left of the left photo's, in the same rows."""
    dataset = open_dataset("stereodemo", [str(real / "stereodemo")])
    refs = dataset.scenes()
    assert len(refs) == 12 and refs[0].name == "oak-d/bedroom_chair"
    for ref in refs:
        truth = dataset.load(ref)
        assert truth.intrinsics is not None
        expected = pinhole(451.0344543, 451.0344543, 299.5383911, 255.6650239)
        np.testing.assert_allclose(truth.intrinsics, [expected, expected], atol=1e-6)
        np.testing.assert_array_equal(truth.extrinsics[1, :, 3], [-0.075, 0, 0])
        rows, columns = best_disparity(truth)
        assert rows == 0 and columns > 0, (ref.name, rows, columns)


# The treadmill's plane, z = 0, from above: 10 mm a pixel, x to the right, y upwards.
X, Y = np.meshgrid(np.arange(-2.4, 0.6, 0.01), np.arange(1.0, -1.0, -0.01))
FARTHEST = 14  # shifts that are tried, in pixels


def edges_from_above(truth: GroundTruth, view: int) -> NDArray[np.float64]:
    """Edges of what a view shows of the plane, as (h, w); NaN where it shows nothing of it."""
    assert truth.intrinsics is not None
    e, image = truth.extrinsics[view], truth.images[view]
    assert isinstance(image, np.ndarray)
    camera = np.stack([X, Y, 0 * X], axis=-1) @ e[:, :3].T + e[:, 3]
    pixels = camera @ truth.intrinsics[view].T
    u, v = np.floor(pixels[..., :2] / pixels[..., 2:]).astype(int).transpose(2, 0, 1)
    height, width = image.shape[:2]
    seen = (camera[..., 2] > 0) & (u >= 0) & (v >= 0) & (u < width) & (v < height)
    brightness = np.full(X.shape, np.nan)
    brightness[seen] = image[v[seen], u[seen]].mean(axis=-1)
    edges = gradient(brightness)
    blurred = np.nan_to_num(edges)
    for axis in (0, 1):
        blurred = np.mean([np.roll(blurred, step, axis) for step in range(-2, 3)], axis=0)
    return np.where(np.isnan(edges), np.nan, blurred)


def best_shift(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[int, int, float]:
    """Shift (rows, columns) of `other` with the largest correlation, and the correlation."""
    best = (0, 0, -1.0)
    inner = np.s_[FARTHEST:-FARTHEST, FARTHEST:-FARTHEST]
    steps = range(-FARTHEST, FARTHEST + 1, 2)
    for rows in steps:
        for columns in steps:
            a, b = one[inner], np.roll(other, (rows, columns), axis=(0, 1))[inner]
            known = np.isfinite(a) & np.isfinite(b)
            score = float(np.corrcoef(a[known], b[known])[0, 1])
            if score > best[2]:
                best = (rows, columns, score)
    return best


def test_pose2sim_cameras_see_one_treadmill(real: Path) -> None:
    """Its rails and plates, projected from four sides to its plane, lie within 60 mm."""
    dataset = open_dataset("pose2sim", [str(real / "Pose2Sim")])
    refs = {ref.name: ref for ref in dataset.scenes()}
    trials = {"Demo_SinglePerson", "Demo_MultiPerson", "Demo_Batch/Trial_1", "Demo_Batch/Trial_2"}
    assert set(refs) == trials
    truth = dataset.load(refs["Demo_SinglePerson"])
    # Two of the videos were scaled by 1080 / 1088, and have black rows above and below.
    sizes = [np.shape(image)[:2] for image in truth.images]
    assert sizes == [(1906, 1080), (1906, 1080), (1920, 1088), (1920, 1088)]
    assert all(np.asarray(image)[:3].mean() > 50 for image in truth.images)
    above = [edges_from_above(truth, view) for view in range(4)]
    for i, j in ((0, 1), (0, 3), (1, 2)):
        rows, columns, score = best_shift(above[i], above[j])
        assert max(abs(rows), abs(columns)) <= 6 and score > 0.4, (i, j, rows, columns, score)
