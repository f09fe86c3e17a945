"""Sessions of Pose2Sim: calibrations of both kinds, videos, lenses, and every contradiction."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from covis.cli import run_command
from covis.commands.demo import demo_bundle
from covis.engines.errors import CovisError, ExitCode
from covis.evaluation.datasets import open_dataset
from covis.evaluation.datasets.pose2sim_calibration import read_calibration, rotation_of
from covis.evaluation.datasets.truth import GroundTruth

pytest.importorskip("scipy", reason="rigs are written with scipy")
pytest.importorskip("av", reason="videos are written with PyAV")
from scipy.spatial.transform import Rotation

from tests.evaluation.datasets import rigs
from tests.evaluation.datasets.layouts import Known, known
from tests.runtime.photos.videos import write_video

STRAIGHT = (0.0, 0.0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def scene() -> Known:
    return known()


def load(root: Path, name: str = "Demo_Single") -> GroundTruth:
    dataset = open_dataset("pose2sim", [str(root)])
    return dataset.load(next(ref for ref in dataset.scenes() if ref.name == name))


def write_session(root: Path, scene: Known, text: str, file: str = "Calib.toml") -> Path:
    """A session with a calibration and the photos as they are; returns the videos' folder."""
    videos = root / "Demo_Single" / "videos"
    videos.mkdir(parents=True)
    (root / "Demo_Single" / "calibration").mkdir()
    (root / "Demo_Single" / "calibration" / file).write_text(text)
    for i, image in enumerate(scene.images):
        write_video(videos / f"cam{i + 1:02d}.mp4", [image])
    return videos


@pytest.mark.parametrize("kind", ["qualisys", "toml"])
def test_cameras_and_photos(tmp_path: Path, scene: Known, kind: str) -> None:
    rigs.write_pose2sim(tmp_path, scene, kind=kind)
    for name in ("Demo_Single", "Demo_Batch/Trial_1"):
        truth = load(tmp_path, name)
        assert truth.intrinsics is not None and truth.depth is None and len(truth) == 4
        np.testing.assert_allclose(truth.extrinsics, scene.extrinsics, atol=1e-9)
        np.testing.assert_allclose(truth.intrinsics, scene.intrinsics, atol=1e-9)
        for i, image in enumerate(truth.images):
            assert isinstance(image, np.ndarray) and image.shape == scene.images[i].shape
            distances = np.abs(image.astype(float) - scene.images).mean(axis=(1, 2, 3))
            assert int(distances.argmin()) == i


def test_sessions_are_found_from_any_folder_above(tmp_path: Path, scene: Known) -> None:
    rigs.write_pose2sim(tmp_path, rigs.two_views(scene))
    names = ["Demo_Batch/Trial_1", "Demo_Single"]
    assert [ref.name for ref in open_dataset("pose2sim", [str(tmp_path)]).scenes()] == names
    for name in names:
        session = tmp_path / name.split("/")[0]
        (ref,) = open_dataset("pose2sim", [str(session)]).scenes()
        assert ref.name == name


def test_lens_is_removed(tmp_path: Path, scene: Known) -> None:
    """Photos through a lens come closer to the pinhole's than they are."""
    lens = (-0.1, 0.0, 0.0, 0.0, 0.0)
    wide = replace(scene, images=np.kron(scene.images, np.ones((1, 4, 4, 1), np.uint8)),
                   intrinsics=np.diag([4, 4, 1]) @ scene.intrinsics)  # fmt: skip
    one = rigs.two_views(wide)
    seen = np.stack(
        [rigs.through_lens(i, k, lens) for i, k in zip(one.images, one.intrinsics, strict=True)]
    )
    write_session(tmp_path, replace(one, images=seen), rigs.toml(one, lens))
    truth = load(tmp_path)
    for i, image in enumerate(truth.images):
        assert isinstance(image, np.ndarray)
        error = np.abs(image.astype(float) - one.images[i]).mean()
        assert error < 0.5 * np.abs(seen[i].astype(float) - one.images[i]).mean()


def test_scaled_video_with_bars(tmp_path: Path, scene: Known) -> None:
    """Twelve times the calibrated size, with two black rows above and below."""
    few = rigs.two_views(scene)
    videos = write_session(tmp_path, few, rigs.toml(few, STRAIGHT))
    large = np.kron(few.images, np.ones((1, 12, 12, 1), np.uint8))
    for i, image in enumerate(np.pad(large, ((0, 0), (2, 2), (0, 0), (0, 0)))):
        write_video(videos / f"cam{i + 1:02d}.mp4", [image])
    truth = load(tmp_path)
    expected = np.diag([12, 12, 1]) @ few.intrinsics
    assert truth.intrinsics is not None
    np.testing.assert_allclose(truth.intrinsics, expected, atol=1e-9)
    for image, true in zip(truth.images, large, strict=True):
        assert isinstance(image, np.ndarray) and image.shape == true.shape
        # Edges of the enlarged pixels suffer from the video's compression; rows must not be off.
        assert np.median(np.abs(image.astype(float) - true)) < 4
    for i, image in enumerate(np.pad(large, ((0, 0), (6, 6), (0, 0), (0, 0)))):
        write_video(videos / f"cam{i + 1:02d}.mp4", [image])
    message = r"cam01.mp4: has 384 x 300 pixels, its camera cam01 32 x 24; use the calibration"
    with pytest.raises(CovisError, match=message):
        load(tmp_path)


def test_videos_belong_to_cameras_by_name_or_order(tmp_path: Path, scene: Known) -> None:
    text = rigs.toml(scene, STRAIGHT)
    swapped = text.replace("cam01", "camX").replace("cam02", "cam01").replace("camX", "cam02")
    write_session(tmp_path / "names", scene, swapped)
    truth = load(tmp_path / "names")
    # The table that is called cam02 has the first camera's numbers, and the second one's video.
    order = [1, 0, 2, 3]
    np.testing.assert_allclose(truth.extrinsics, scene.extrinsics, atol=1e-9)
    for image, view in zip(truth.images, order, strict=True):
        distances = np.abs(np.asarray(image, float) - scene.images).mean(axis=(1, 2, 3))
        assert int(distances.argmin()) == view
    renamed = text.replace("cam0", "int_cam0")
    write_session(tmp_path / "order", scene, renamed)
    for image, view in zip(load(tmp_path / "order").images, range(4), strict=True):
        distances = np.abs(np.asarray(image, float) - scene.images).mean(axis=(1, 2, 3))
        assert int(distances.argmin()) == view


def test_rotation_vectors() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 3))
    for vector in (*vectors, *(1e-9 * vectors[:3]), np.zeros(3), np.array([0, np.pi, 0])):
        expected = Rotation.from_rotvec(vector).as_matrix()
        np.testing.assert_allclose(rotation_of(vector), expected, atol=1e-12)


Change = Callable[[str], str]
BROKEN: dict[str, tuple[str, Change, str]] = {
    "no table": ("toml", lambda text: "[metadata]\nerror = 0.0\n", "damaged .no camera."),
    "no TOML": ("toml", lambda text: text.replace("[cam02]", "[cam02"), "is damaged"),
    "no matrix": ("toml", lambda text: text.replace("matrix", "matrices"), "no 'matrix'"),
    "short pose": ("toml", lambda text: text.replace("translation = [", "translation = [1.0, "),
                   "translation is not 3 finite numbers"),
    "fisheye": ("toml", lambda text: text.replace("fisheye = false", "fisheye = true"),
                "cam01 is a fisheye camera; it is not read"),
    "folded": ("toml", lambda text: text.replace("distortions = [-0.05", "distortions = [-9.0"),
               "cam01: its distortion folds the image over"),
    "lens": ("toml", lambda text: text.replace("distortions = [-0.05", "distortions = [1, 1, 1, 1"),
             r"cam01: distortions of shape \(8,\), not 4 or 5 numbers"),
    "skew": ("toml", lambda text: text.replace(", 0.0, ", ", 0.5, ", 1),
             "matrix is not that of a camera without skew"),
    "entities": ("qualisys", lambda text: text.replace("<cal", "<!DOCTYPE a []><cal", 1),
                 "it declares entities"),
    "no XML": ("qualisys", lambda text: text.replace("</cameras>", ""),
               "is damaged .mismatched tag"),
    "other XML": ("qualisys", lambda text: text.replace("serial", "id"), "no 'serial'"),
    "no pose": ("qualisys", lambda text: text.replace("<transform", "<place"), "no 'transform'"),
    "mirror": ("qualisys", lambda text: text.replace('r11="', 'r11="1'),
               "transform is not a rotation"),
    "turned": ("qualisys", lambda text: text.replace('viewrotation="0"', 'viewrotation="90"'),
               "cam04 has a viewrotation"),
    "infinite": ("qualisys", lambda text: text.replace('focalLengthU="', 'focalLengthU="-'),
                 "its numbers are not those of a camera"),
    "huge": ("toml", lambda text: text.replace("size = [", "size = [1" + 400 * "0" + ", "),
             "too large"),
    "deep": ("toml", lambda text: text + "a = " + 100_000 * "[", "is damaged"),
    "endless": ("qualisys", lambda text: text.replace('right="34"', 'right="inf"'),
                "fov_video has a number that is not finite"),
    "empty": ("qualisys", lambda text: text.replace('right="34"', 'right="2"'),
              "a size of 0 x 24"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_calibrations(tmp_path: Path, scene: Known, name: str) -> None:
    kind, change, message = BROKEN[name]
    whole = (rigs.toml if kind == "toml" else rigs.qualisys)(scene)
    path = tmp_path / ("Calib.toml" if kind == "toml" else "Calib.qca.txt")
    path.write_text(whole)
    assert len(read_calibration(path)) == 4
    changed = change(whole)
    assert changed != whole
    path.write_text(changed)
    with pytest.raises(CovisError, match=message) as caught:
        read_calibration(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_missing_parts(tmp_path: Path, scene: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = write_session(tmp_path, rigs.two_views(scene), rigs.toml(rigs.two_views(scene)))
    calibration = tmp_path / "Demo_Single" / "calibration" / "Calib.toml"

    def refused(message: str) -> CovisError:
        with pytest.raises(CovisError, match=message) as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)
        return caught.value

    other = calibration.with_name("Calib_old.toml")
    other.write_bytes(calibration.read_bytes())
    refused(r"calibration: has 2 calibrations \(Calib.toml, Calib_old.toml\); keep one of them")
    other.unlink()
    with monkeypatch.context() as without_av:
        without_av.setitem(sys.modules, "av", None)
        assert refused("PyAV is not installed; pip install").code == ExitCode.ENVIRONMENT
    (videos / "cam03.mp4").write_bytes((videos / "cam01.mp4").read_bytes())
    refused("videos: has 3 videos for the 2 cameras of Calib.toml; keep one video for each camera")
    (videos / "cam03.mp4").unlink()
    whole = (videos / "cam02.mp4").read_bytes()
    for content in (b"", b"no video" * 100, whole[: len(whole) // 3]):
        (videos / "cam02.mp4").write_bytes(content)
        refused(r"cam02.mp4: ")
    (videos / "cam02.mp4").write_bytes(whole)
    calibration.unlink()
    refused("calibration: is missing: neither a calibration as .toml nor as .qca.txt in it")
    videos.rename(videos.with_name("films"))
    with pytest.raises(CovisError, match="is missing: no session with calibration and videos"):
        open_dataset("pose2sim", [str(tmp_path)]).scenes()


def test_through_the_command(tmp_path: Path, scene: Known) -> None:
    write_session(tmp_path, scene, rigs.toml(scene, STRAIGHT))
    out = tmp_path / "out"
    command = ["eval", str(demo_bundle()), "pose2sim", str(tmp_path), "--out", str(out)]
    assert run_command([*command, "--threads", "1"]) == 0
    (record,) = json.loads((out / "results.json").read_text())["scenes"]
    assert record["scene"] == "Demo_Single" and record["pairs"] == 6
    assert record["ate"] > 0 and "abs_rel" not in record
