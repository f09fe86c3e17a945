"""A folder as a phone fills it becomes a scene that trainers open, and nothing is lost in silence.

The folder holds photos stored sideways, a HEIC photo, a video, a broken file and what is no photo.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from covis.cli import run_command
from tests.places import DEMO

SIDEWAYS = 6  # EXIF: the top of the view is at the right of the stored pixels


def view(seed: int, height: int = 180, width: int = 240) -> NDArray[np.uint8]:
    """A smooth image, so that lossy formats change it little."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def write_video(path: Path, frames: int) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 240, 180, "yuv420p"
        for index in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view(50 + index), "rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    import pillow_heif

    folder = tmp_path / "DCIM"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = SIDEWAYS
    stored = Image.fromarray(view(1)).transpose(Image.Transpose.ROTATE_90)
    stored.save(folder / "IMG 1.jpg", quality=95, exif=exif)
    Image.fromarray(view(2)).save(folder / "IMG 2.jpg", quality=95)
    pillow_heif.from_pillow(Image.fromarray(view(3))).save(folder / "IMG 3.HEIC", quality=90)
    write_video(folder / "MOV 4.mp4", 10)
    whole = (folder / "IMG 2.jpg").read_bytes()
    (folder / "IMG 5.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("not a photo")
    return folder


def test_the_folder_opens_in_trainers(
    phone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scene"
    assert run_command(["run", str(DEMO), str(phone), "--out", str(out), "--skip-bad"]) == 0
    lines = capsys.readouterr().err.splitlines()
    for name in ("IMG 5.jpg", "notes.txt"):
        assert len([line for line in lines if name in line]) == 1, name
    assert len([line for line in lines if "MOV 4.mp4" in line]) == 1

    import pycolmap

    model = pycolmap.Reconstruction(out / "sparse" / "0")
    summary = json.loads((out / "scene.json").read_text())
    assert len(model.images) == len(summary["views"]) == 3 + 2  # two frames of a second of video
    for image in model.images.values():
        camera = model.cameras[image.camera_id]
        with Image.open(out / "images" / image.name) as file:
            assert file.size == (camera.width, camera.height) == (240, 180)
            assert file.getexif().get(0x0112, 1) == 1
    for seed in (1, 2, 3):
        copy = np.asarray(Image.open(out / "images" / f"IMG_{seed}.jpg"))
        assert np.abs(copy.astype(int) - view(seed)).mean() < 5.0


def test_without_skip_bad_the_broken_photo_stops_the_run(
    phone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scene"
    assert run_command(["run", str(DEMO), str(phone), "--out", str(out)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "IMG 5.jpg" in line and "--skip-bad" in line
    assert not out.exists()


def test_inputs_are_not_replaced_by_their_own_result(
    phone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run on the images of an earlier one, with fewer views, would delete the others."""
    out, more = tmp_path / "scene", ["--formats", "images", "--skip-bad"]
    assert run_command(["run", str(DEMO), str(phone), "--out", str(out), *more]) == 0
    before = sorted((out / "images").iterdir())
    again = ["run", str(DEMO), str(out / "images"), "--out", str(out), "--force", "--every", "3"]
    assert run_command(again) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "is an input, and lies in the folder that --force would replace" in line
    assert sorted((out / "images").iterdir()) == before
