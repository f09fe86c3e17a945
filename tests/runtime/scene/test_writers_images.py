"""`images/` and `masks/`: what is copied, what is written again, and names that readers take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from covis.engines.errors import CovisError
from covis.runtime.photos.files import stamp
from covis.runtime.photos.images import load_images
from covis.runtime.photos.video import VideoFrame
from covis.runtime.scene.scene import Scene
from covis.runtime.scene.writers import OutputOptions, write
from covis.runtime.scene.writers.names import safe_names
from tests.runtime.scene.globe import (
    RULE,
    every_kind,
    globe_scene,
    plain_jpeg,
    random_view,
    sideways,
)
from tests.runtime.scene.random_scene import random_scene

IMAGES = OutputOptions(formats=("images",))
MASKS = OutputOptions(formats=("masks",))


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("IMG_0001.JPG", "IMG_0001.jpg"),
        ("_DSC0001.jpg", "_DSC0001.jpg"),
        ("a b\u3000c\x1cd\u2028e.jpg", "a_b_c_d_e.jpg"),
        ("cam 1/left/01.png", "cam_1_left_01.jpg"),
        ("Küche.jpg", "Kuche.jpg"),
        ("写真.jpg", "view_0000.jpg"),
        ("a%20b.jpg", "a_20b.jpg"),
        ("..\\-rf.jpg", "_-rf.jpg"),
        ("--help", "help.jpg"),
        (".hidden.jpg", "_hidden.jpg"),
        ("img.v2.final.jpg", "img_v2_final.jpg"),
        ("con.jpg", "con_.jpg"),
        ("\udcff\x00.jpg", "view_0000.jpg"),
        ("a" * 255, "a" * 100 + ".jpg"),
        ("", "view_0000.jpg"),
    ],
)
def test_names_become_safe(name: str, safe: str) -> None:
    assert safe_names([name], [".jpg"]) == (safe,)


def test_names_stay_different_where_case_does_not_count() -> None:
    names = ["a b.jpg", "A_B.jpg", "a_b.png", "a/b.jpg", "a_b-2.jpg"]
    safe = safe_names(names, [".jpg"] * 5)
    # The names that are safe already stay; the first of two that differ by case alone.
    assert safe == ("a_b-3.jpg", "A_B.jpg", "a_b-4.jpg", "a_b-5.jpg", "a_b-2.jpg")


@given(st.lists(st.text(max_size=120), min_size=1, max_size=8))
def test_any_names_become_safe_and_different(names: list[str]) -> None:
    safe = safe_names(names, [".png"] * len(names))
    assert len({name.lower() for name in safe}) == len(names)
    for name in safe:
        assert name.isascii() and name.isprintable() and len(name.split()) == 1
        assert name.count(".") == 1 and not name.startswith(("-", ".")) and len(name) < 128


def test_upright_photos_are_copied_and_others_written_again(tmp_path: Path) -> None:
    scene, views = every_kind(tmp_path / "photos")
    files, _ = write(scene, tmp_path / "out", IMAGES)
    names = json.loads((tmp_path / "out/scene.json").read_text())["images"]
    for original in ("IMG_0001.jpg", "-x.y\tz.jpeg"):
        copy = tmp_path / "out/images" / names[original]
        assert copy.read_bytes() == (tmp_path / "photos" / original).read_bytes()
    for path, view in zip(files, views, strict=False):
        with Image.open(path) as image:
            assert image.size == (view.width, view.height) and image.mode == "RGB"
            assert image.getexif().get(0x0112, 1) == 1
            if names["IMG 0001.JPG"] == path.name:
                assert image.format == "JPEG" and image.layer[0][1:3] == (1, 1)  # type: ignore[attr-defined]
            difference = np.abs(np.asarray(image).astype(float) - view.photo())
        if "Kuche" in path.name:
            assert (np.asarray(Image.open(path))[: view.height // 3] == 255).all()
        else:
            assert difference.mean() < 1.5, path.name
    # Photos in memory lose nothing.
    memory = tmp_path / "out/images/view_0003.png"
    np.testing.assert_array_equal(np.asarray(Image.open(memory)), views[3].photo())


def one_photo(folder: Path, **options: Any) -> tuple[Scene, Path]:
    view = random_view(90, 120, 1)
    folder.mkdir()
    path = plain_jpeg(view.photo(), folder)
    images = load_images([path, view.photo()], RULE, **options)
    return globe_scene([view, view], images), path


@pytest.mark.parametrize("change", ["removed", "another size", "other pixels", "no image"])
def test_a_photo_that_has_changed_since(tmp_path: Path, change: str) -> None:
    """The work is not lost: all images and cameras are at the model's size, and a line says so."""
    scene, path = one_photo(tmp_path / "photos")
    if change == "removed":
        path.unlink()
    elif change == "another size":
        Image.new("RGB", (121, 90)).save(path)
    elif change == "other pixels":
        Image.new("RGB", (120, 90)).save(path)
    else:
        path.write_bytes(b"no image")
    _, (note,) = write(scene, tmp_path / "out", OutputOptions(formats=("nerfstudio",)))
    assert str(path) in note and "has changed" in note and "at the model's size" in note
    assert "\n" not in note
    summary = json.loads((tmp_path / "out/scene.json").read_text())
    assert summary["images_from"] == "model" and summary["notes"] == [note]
    frames = json.loads((tmp_path / "out/transforms.json").read_text())["frames"]
    for i, frame in enumerate(frames):
        with Image.open(tmp_path / "out" / frame["file_path"]) as image:
            assert image.size == (frame["w"], frame["h"]) == (84, 84)
            assert scene.images is not None
            np.testing.assert_array_equal(np.asarray(image), scene.images[i].transpose(1, 2, 0))
        assert frame["fl_x"] == scene.intrinsics[i, 0, 0]
        # What is no photo, the padding, may not be used.
        mask = np.asarray(Image.open(tmp_path / "out" / frame["mask_path"]))
        np.testing.assert_array_equal(mask > 0, scene.valid[i])


def test_a_video_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"")
    frame = VideoFrame(tmp_path / "clip.mp4", 0, 0, 0, (100, 161))
    scene = random_scene(views=1, sources=(frame,), stamps=(stamp(frame),))
    (tmp_path / "clip.mp4").unlink()
    _, (note,) = write(scene, tmp_path / "out", IMAGES)
    assert "clip_000000.jpg has changed since it was read; images/ and" in note


def test_paths_hold_below_a_link(tmp_path: Path) -> None:
    """Paths relative to the folder's name, not to the folder itself, pointed nowhere."""
    scene, _ = one_photo(tmp_path / "photos")
    (tmp_path / "a/b/c/real").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a/b/c/real")
    out = tmp_path / "link" / "out"
    write(scene, out, OutputOptions(formats=("nerfstudio",)))
    for place in (out, tmp_path / "a/b/c/real/out"):
        for frame in json.loads((place / "transforms.json").read_text())["frames"]:
            assert (place / frame["file_path"]).is_file()


def test_a_photo_that_is_damaged_since(tmp_path: Path) -> None:
    view = random_view(90, 120, 1)
    path = sideways(view.photo(), tmp_path)
    scene = globe_scene([view], load_images([path], RULE))
    path.write_bytes(path.read_bytes()[:-2000])
    assert "has changed since it was read" in write(scene, tmp_path / "noticed", IMAGES).notes[0]
    scene = replace(scene, stamps=None)  # damaged without a trace
    with pytest.raises(CovisError, match=r"IMG 0001\.JPG: is "):
        write(scene, tmp_path / "out", IMAGES)
    assert not (tmp_path / "out").exists()


def test_a_scene_without_any_images(tmp_path: Path) -> None:
    _, (note,) = write(random_scene(images=None), tmp_path / "out", IMAGES)
    assert "images/ is left out" in note and not (tmp_path / "out/images").exists()


def test_no_line_about_images_that_nobody_asked_for(tmp_path: Path) -> None:
    assert write(random_scene(), tmp_path / "out", OutputOptions(formats=("ply",))).notes == ()


def test_images_as_floats(tmp_path: Path) -> None:
    scene = random_scene()
    assert scene.images is not None
    floats = random_scene(images=scene.images / np.float32(255))
    write(floats, tmp_path / "out", IMAGES)
    written = np.asarray(Image.open(tmp_path / "out/images/001.png"))
    np.testing.assert_array_equal(written, scene.images[1].transpose(1, 2, 0))


def test_no_masks_where_all_pixels_may_be_used(tmp_path: Path) -> None:
    scene, _ = one_photo(tmp_path / "photos")
    files, _ = write(scene, tmp_path / "out", MASKS)
    assert [path.parent.name for path in files] == ["images", "images", "out"]


def test_masks_of_the_user_at_full_size(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    mask = np.full((90, 120), 255, np.uint8)
    mask[20:50, 30:90] = 0
    Image.fromarray(mask).save(tmp_path / "masks/IMG_0001.png")
    view = random_view(90, 120, 1)
    path = plain_jpeg(view.photo(), tmp_path)
    scene = globe_scene([view], load_images([path], RULE))
    scene = replace(scene, mask_paths=(tmp_path / "masks/IMG_0001.png",))
    write(scene, tmp_path / "out", MASKS)
    written = np.asarray(Image.open(tmp_path / "out/masks/IMG_0001.jpg.png"))
    np.testing.assert_array_equal(written, mask)
    assert (tmp_path / "out/images/IMG_0001.jpg").read_bytes() == path.read_bytes()
    (tmp_path / "masks/IMG_0001.png").unlink()
    (note,) = write(scene, tmp_path / "again", MASKS).notes
    assert "IMG_0001.png has gone since it was read; images/ and its cameras are at" in note


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_grey_photos_have_three_channels(tmp_path: Path, suffix: str) -> None:
    """The parser of gsplat takes three of an array's last axis, which would be columns."""
    view = random_view(90, 120, 1)
    grey = view.photo()[:, :, 0]
    path = tmp_path / f"grey.{suffix}"
    Image.fromarray(grey).save(path, quality=95)
    scene = globe_scene([view], load_images([path], RULE))
    files, _ = write(scene, tmp_path / "out", IMAGES)
    assert files[0].name == path.name
    written = np.asarray(Image.open(files[0]))
    assert written.shape == (90, 120, 3)
    assert np.abs(written.astype(int) - grey[:, :, None]).mean() < 2
