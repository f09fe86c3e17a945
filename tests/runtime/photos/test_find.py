"""Which photos are found in a folder or a list, and what is said about everything else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from covis.engines.bundle.pixel_rule import PixelRule
from covis.engines.errors import CovisError, ExitCode
from covis.runtime.photos import find as finding
from covis.runtime.photos import folder as folder_of
from covis.runtime.photos import formats
from covis.runtime.photos.find import find
from covis.runtime.photos.images import load_images
from covis.runtime.photos.selection import load_photos, select_photos

RULE = PixelRule("vggt_crop", 14, 14)


def photo(path: Path, colour: str = "gray") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16), colour).save(path, format="png")
    return path


def names(source: object) -> list[str]:
    return [Path(str(p)).name for p in find(source).photos]


def refused(source: object, message: str) -> CovisError:
    with pytest.raises(CovisError, match=message) as caught:
        select_photos(source)
    assert "\n" not in str(caught.value) and "; " in str(caught.value)
    return caught.value


def without_heic(monkeypatch: pytest.MonkeyPatch) -> None:
    present = tuple(name for name in formats.decoders(Path("a.jpg")) if name != "HEIF")
    monkeypatch.setattr(formats, "_decoders", present)


# Folders


def test_natural_order_and_what_is_passed_over(tmp_path: Path) -> None:
    for name in ("img10.png", "img2.PNG", "IMG1.png", "a b\nc.png", ".hidden.png", "notes.txt"):
        photo(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    found = find(tmp_path)
    assert [Path(str(p)).name for p in found.photos] == [
        "a b\nc.png", "IMG1.png", "img2.PNG", "img10.png",
    ]  # fmt: skip
    assert find(str(tmp_path)) == found
    assert found.notes == (f"passed over 1 file of {tmp_path}: notes.txt",)


def test_every_format_that_pillow_decodes_is_taken(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 16))
    for suffix in ("jpg", "jfif", "png", "webp", "avif", "tif", "bmp", "gif", "jp2", "ppm", "tga"):
        image.save(tmp_path / f"a.{suffix}", format="jpeg" if suffix == "jfif" else None)
    image.save(tmp_path / "b.mpo", format="mpo", save_all=True, append_images=[image])
    found = find(tmp_path)
    assert len(found.photos) == 12 and not found.notes
    assert len(load_images(found.photos, RULE)) == 12


def test_photos_without_a_decoder_are_named_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jpg", "b.heic", "c.HEIC", "d.jpg"):
        photo(tmp_path / name)
    assert names(tmp_path) == ["a.jpg", "b.heic", "c.HEIC", "d.jpg"]  # pillow-heif is here
    without_heic(monkeypatch)
    found = find(tmp_path)
    assert [Path(str(p)).name for p in found.photos] == ["a.jpg", "d.jpg"]
    assert found.notes == (
        f"passed over 2 files of {tmp_path}: b.heic, c.HEIC (pip install 'covis[heic]')",
    )
    for name in ("a.jpg", "d.jpg"):
        (tmp_path / name).unlink()
    error = refused(tmp_path, r"no photo that can be read here.*b\.heic; pip install 'covis\[heic")
    assert error.code == ExitCode.ENVIRONMENT


def test_videos_without_pyav_are_named_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "a.jpg")
    (tmp_path / "b.mp4").write_bytes(b"0")
    monkeypatch.setattr(folder_of.importlib.util, "find_spec", lambda name: None)
    found = find(tmp_path)
    assert found.photos == (tmp_path / "a.jpg",)
    assert found.notes == (f"passed over 1 file of {tmp_path}: b.mp4 (pip install 'covis[video]')",)


def test_the_line_on_what_was_passed_over_is_bounded(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    for i in range(300):
        (tmp_path / f"{i:03d}{'x' * 200}.txt").touch()
    (tmp_path / "z.dng").touch()
    (tmp_path / "line\nbreak.NEF").touch()
    (note,) = find(tmp_path).notes
    assert (
        "passed over 302" in note
        and "and 296 more" in note
        and len(note) < 500 + len(str(tmp_path))
    )
    assert r"line\nbreak.NEF, z.dng (raw: develop to JPEG)" in note and "\n" not in note


@pytest.mark.parametrize(
    ("name", "cure"),
    [("b.CR2", "raw: develop to JPEG"), ("b.mpg", "convert to MP4"), ("b.jxl", "convert to JPEG")],
)
def test_formats_that_are_not_read_are_named_with_the_cure(
    tmp_path: Path, name: str, cure: str
) -> None:
    photo(tmp_path / "a.jpg")
    (tmp_path / name).touch()
    assert find(tmp_path).notes == (f"passed over 1 file of {tmp_path}: {name} ({cure})",)


def test_links_are_followed_and_dead_ones_named(tmp_path: Path) -> None:
    real = photo(tmp_path / "real" / "1.png")
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").symlink_to(real)
    (folder / "dead.png").symlink_to(tmp_path / "missing.png")
    os.mkfifo(folder / "pipe.png")
    found = find(folder)
    assert found.photos == (folder / "a.png",)
    assert found.notes == (
        f"passed over 2 files of {folder}: dead.png (leads nowhere), pipe.png (no ordinary file)",
    )
    assert len(load_images(found.photos, RULE)) == 1


def test_the_film_of_a_live_photo_is_passed_over(tmp_path: Path) -> None:
    photo(tmp_path / "IMG_1.jpg")
    (tmp_path / "IMG_1.MOV").write_bytes(b"0")
    found = find(tmp_path)
    assert names(tmp_path) == ["IMG_1.jpg"]
    assert found.notes == (f"passed over 1 file of {tmp_path}: IMG_1.MOV (of a live photo)",)


def test_thousand_files_are_found_in_order(tmp_path: Path) -> None:
    data = photo(tmp_path / "0.png").read_bytes()
    for i in range(1, 1000):
        (tmp_path / f"{i}.png").write_bytes(data)
    images = load_photos(tmp_path, RULE)
    assert images.uint8.shape == (1000, 3, 14, 14)
    assert images.names == tuple(f"{i}.png" for i in range(1000))


# One level deeper


def test_photos_in_a_folder_images_are_taken(tmp_path: Path) -> None:
    for name in ("images/2.png", "images/10.png", "images_2/2.png", "masks/2.png"):
        photo(tmp_path / name)
    (tmp_path / "cameras.txt").touch()
    selection = select_photos(tmp_path)
    assert selection.names == ("2.png", "10.png")
    assert selection.notes == (
        f"{tmp_path} has no photo itself: those of images are taken",
        f"passed over 1 file and 2 folders of {tmp_path}: cameras.txt, images_2/, masks/",
    )


def test_photos_of_the_only_folder_with_photos_are_taken(tmp_path: Path) -> None:
    photo(tmp_path / "DCIM" / "1.png")
    (tmp_path / "empty").mkdir()
    selection = select_photos(tmp_path)
    assert selection.names == ("1.png",) and selection.photos == (tmp_path / "DCIM" / "1.png",)
    assert selection.notes == (f"{tmp_path} has no photo itself: those of DCIM are taken",)


def test_folders_of_a_rig_are_taken_with_their_names(tmp_path: Path) -> None:
    for camera in ("cam10", "cam2"):
        for name in ("10.png", "9.png"):
            photo(tmp_path / camera / name)
    selection = select_photos(tmp_path)
    assert selection.names == ("cam2/9.png", "cam2/10.png", "cam10/9.png", "cam10/10.png")
    assert selection.notes == (f"{tmp_path} has no photo itself: those of cam2, cam10 are taken",)
    assert load_images(selection.photos, RULE, names=selection.names).names == selection.names


def test_photos_in_folders_beside_photos_are_named(tmp_path: Path) -> None:
    for name in ("1.png", "more/2.png"):
        photo(tmp_path / name)
    (tmp_path / "no photos").mkdir()
    found = find(tmp_path)
    assert found.photos == (tmp_path / "1.png",)
    assert found.notes == (f"passed over 1 folder of {tmp_path}: more/",)


def test_a_folder_whose_only_photos_are_called_depth(tmp_path: Path) -> None:
    photo(tmp_path / "depth" / "1.png")
    assert select_photos(tmp_path).names == ("1.png",)
    with pytest.raises(CovisError, match="holds no photo; put jpg"):
        find(tmp_path, masks=tmp_path / "depth")


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    photo(tmp_path / "1.png")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    if os.access(locked, os.R_OK):
        pytest.skip("this user reads everything")
    assert find(tmp_path).notes == (
        f"passed over 1 folder of {tmp_path}: locked/ (may not be read)",
    )


def test_photos_still_deeper_are_named_in_the_error(tmp_path: Path) -> None:
    photo(tmp_path / "set" / "images" / "cam1" / "1.png")
    error = refused(tmp_path, "holds no photo; photos lie deeper: give ")
    assert error.hint.endswith(str(tmp_path / "set" / "images"))
    assert select_photos(tmp_path / "set" / "images").names == ("1.png",)


# Lists


def test_a_list_keeps_its_order(tmp_path: Path) -> None:
    paths = [photo(tmp_path / f"{name}.png") for name in "bca"]
    assert find(paths).photos == tuple(paths)
    assert find([str(p) for p in paths]).photos == tuple(paths)
    assert find(paths[0]).photos == (paths[0],)
    assert find(os.fsencode(paths[0]).decode()).photos == (paths[0],)


def test_iterators_are_read_as_lists(tmp_path: Path) -> None:
    paths = [photo(tmp_path / f"{name}.png") for name in "bca"]
    assert find(iter(paths)).photos == tuple(paths)
    assert load_photos((p for p in paths), RULE).names == ("b.png", "c.png", "a.png")
    arrays = (np.full((20, 20, 3), i, np.uint8) for i in range(3))
    assert len(load_photos(arrays, RULE)) == 3


def test_an_endless_iterator_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "a.png"

    monkeypatch.setattr(finding, "MOST_LISTED", 1000)
    refused(endless(), "photos: more than 1,000 photos; give fewer")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "photos: a value of type NoneType is no list of photos; give a folder"),
        (7, "photos: a value of type int is no list of photos; give a folder"),
        (2.5, "photos: a value of type float is no list"),
        (b"a.png", "photos: a value of type bytes is no list of photos"),
        ({"a.png": 1}, "photos: a value of type dict is no list of photos"),
        ({"a.png"}, "photos: a value of type set is no list of photos"),
        ("", "photos: an empty path names no photo"),
        ([], "the list of photos is empty; give"),
        (iter(()), "the list of photos is empty; give"),
        ([None], "photo 0: a value of type NoneType is no photo; give a path, a uint8 array"),
        (
            ["a.png", b"\xff\xd8"],
            r"photo 1: a value of type bytes is no photo; decode it first: PIL.Image.open",
        ),
        ([["a.png"]], "photo 0: a value of type list is no photo"),
        (np.zeros((20, 20, 3), np.uint8), "photos: one array is one photo; give a list"),
        (Image.new("RGB", (20, 20)), "photos: a value of type Image is no list of photos"),
    ],
)
def test_other_things_are_no_photos(source: object, message: str) -> None:
    assert refused(source, message).code == ExitCode.USER


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing", "missing: no such file or folder; "),
        ("empty", "empty: holds no photo; put jpg"),
        ("empty/x\0y", "cannot be read"),
    ],
)
def test_nothing_to_find(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / source, message).code == ExitCode.USER


@pytest.mark.parametrize(
    ("name", "message"), [("missing.png", "no such file"), ("empty", "is a folder; give its files")]
)
def test_a_list_is_of_files(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CovisError, match=f"{name}: {message}"):
        load_photos([tmp_path / name], RULE)


# Names


def test_names_differ_beyond_letter_case_and_composition(tmp_path: Path) -> None:
    composed, decomposed = "\u00fc.png", "u\u0308.png"
    paths = [photo(tmp_path / name) for name in ("a.png", "A.png", composed, decomposed)]
    assert load_images(paths, RULE).names == ("a.png", "A (2).png", composed, "u\u0308 (2).png")
    assert len(find(tmp_path).photos) == 4
