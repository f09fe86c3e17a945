"""Options of the scene through a whole run, from Python and from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import covis
from covis.cli import run_command
from covis.runtime.pipeline import load
from covis.runtime.scene import geometry


def test_without_options_the_scene_is_the_models(tiny_bundle: Path, photos: Path) -> None:
    pipeline = load(tiny_bundle)
    scene = pipeline(photos)
    assert "scene" not in scene.provenance
    assert scene.valid.all()
    np.testing.assert_array_equal(scene.camera_groups(), range(4))


def test_options_are_applied_and_noted(tiny_bundle: Path, photos: Path) -> None:
    pipeline = load(tiny_bundle)
    plain = pipeline(photos)
    assert plain.depth_conf is not None
    median = float(np.median(plain.depth_conf))
    options = covis.SceneOptions(shared_camera=True, world="view0", min_conf=median)
    scene = pipeline(photos, scene_options=options)
    np.testing.assert_array_equal(scene.camera_groups(), 0)
    np.testing.assert_array_equal(scene.extrinsics[0], np.eye(3, 4))
    np.testing.assert_allclose(
        geometry.relative_pose(scene.extrinsics[1], scene.extrinsics[2]),
        geometry.relative_pose(plain.extrinsics[1], plain.extrinsics[2]),
        atol=1e-6,
    )
    assert 0.4 < scene.valid.mean() < 0.6
    assert scene.notes == tuple(pipeline.notes)
    assert len(scene.notes) == 2


def test_the_command_writes_one_camera(
    tiny_bundle: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    more = ["--shared-camera", "--world", "view0", "--min-conf", "1", "--formats", "colmap", "npz"]
    assert run_command(["run", str(tiny_bundle), str(photos), "--out", str(out), *more]) == 0
    assert "4 views share 1 camera" in capsys.readouterr().err
    (cameras,) = out.rglob("cameras.txt")
    lines = [line for line in cameras.read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == 1
    summary = json.loads((out / "scene.json").read_text())
    assert summary["provenance"]["scene"]["world"] == "view0"
    assert any("share 1 camera" in note for note in summary["notes"])
    with np.load(out / "scene.npz") as file:
        np.testing.assert_array_equal(file["extrinsics"][0], np.eye(3, 4))
        assert (file["intrinsics"] == file["intrinsics"][0]).all()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--min-conf", "nan"], "--min-conf: nan is not finite"),
        (["--world", "view1"], "--world"),
    ],
)
def test_wrong_options(
    tiny_bundle: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    out = tmp_path / "out"
    assert run_command(["run", str(tiny_bundle), str(photos), "--out", str(out), *more]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
