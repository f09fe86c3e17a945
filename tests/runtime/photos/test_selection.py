"""The photos of a run: thinned, broken ones passed over, matched with masks; from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import covis
from covis.cli import run_command
from covis.engines.bundle.pixel_rule import PixelRule
from covis.engines.errors import CovisError, ExitCode
from covis.runtime.photos import selection as selecting
from covis.runtime.photos.options import PhotoOptions
from covis.runtime.photos.selection import load_photos, select_photos
from tests.places import DEMO

RULE = PixelRule("vggt_crop", 28, 42)


def view(seed: int, height: int = 60, width: int = 80) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(6):
        view(i).save(folder / f"IMG_{i}.jpg")
    return folder


def mask(path: Path, keep: slice = slice(40, None), size: tuple[int, int] = (60, 80)) -> Path:
    """Write a mask that keeps some columns."""
    pixels = np.zeros(size, np.uint8)
    pixels[:, keep] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def refused(source: object, options: PhotoOptions, message: str) -> CovisError:
    with pytest.raises(CovisError, match=message) as caught:
        load_photos(source, RULE, options)
    assert "\n" not in str(caught.value) and "; " in str(caught.value)
    return caught.value


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "--fps: 0 is not above 0"),
        ({"fps": float("nan")}, "--fps: nan is not above 0"),
        ({"fps": float("inf")}, "--fps: inf is not above 0"),
        ({"fps": 1e9}, "--fps: 1000000000.0 is not above 0 and up to 1000"),
        ({"every": 0}, "--every: 0 is below 1; 1 takes all"),
        ({"max_views": 0}, "--max-views: 0 is below 1"),
        ({"choose": "best"}, "--choose: 'best' is unknown; use one of even, kcenter"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CovisError, match=message) as caught:
        covis.PhotoOptions(**options)
    assert caught.value.code == ExitCode.USER


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (PhotoOptions(), "012345"),
        (PhotoOptions(every=2), "024"),
        (PhotoOptions(every=99), "0"),
        (PhotoOptions(max_views=3), "035"),
        (PhotoOptions(every=2, max_views=2), "04"),
        (PhotoOptions(max_views=100), "012345"),
    ],
)
def test_photos_are_thinned(photos: Path, options: PhotoOptions, expected: str) -> None:
    chosen = select_photos(photos, options)
    assert chosen.names == tuple(f"IMG_{i}.jpg" for i in expected)


def test_photos_that_look_alike_are_left_out(photos: Path) -> None:
    for i in (2, 3, 4):
        view(1).save(photos / f"IMG_{i}.jpg")
    chosen = select_photos(photos, PhotoOptions(max_views=3, choose="kcenter"))
    assert chosen.names == ("IMG_0.jpg", "IMG_1.jpg", "IMG_5.jpg")


def test_too_many_photos(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selecting, "MOST_VIEWS_AT_ONCE", 5)
    refused(photos, PhotoOptions(), "photos: 6 views are more than the 5 of a run; give --max-v")
    assert len(select_photos(photos, PhotoOptions(max_views=5)).photos) == 5


# Broken photos


def test_the_first_broken_photo_stops_a_run_and_names_the_way_on(photos: Path) -> None:
    for i in (2, 4):
        (photos / f"IMG_{i}.jpg").write_bytes(b"broken")
    error = refused(photos, PhotoOptions(), r"IMG_2\.jpg: is no image .*, or pass over it with --s")
    assert error.code == ExitCode.USER and error.where == str(photos / "IMG_2.jpg")


def test_broken_photos_are_passed_over_by_name(photos: Path) -> None:
    whole = (photos / "IMG_0.jpg").read_bytes()
    (photos / "IMG_1.jpg").write_bytes(b"")
    (photos / "IMG_4.jpg").write_bytes(whole[: len(whole) // 2])
    images = load_photos(photos, RULE, PhotoOptions(skip_bad=True))
    assert images.names == tuple(f"IMG_{i}.jpg" for i in (0, 2, 3, 5))
    assert [path.name for path in images.paths if path] == list(images.names)
    assert images.sources == images.paths and len(images.transforms) == len(images) == 4
    expected = load_photos([photos / name for name in images.names], RULE)
    np.testing.assert_array_equal(images.uint8, expected.uint8)
    first, second = images.notes
    assert first == f"passed over {photos / 'IMG_1.jpg'}: is empty (0 bytes)"
    assert second.startswith(
        f"passed over {photos / 'IMG_4.jpg'}: is damaged and cannot be decoded"
    )


def test_missing_files_of_a_list_are_passed_over(photos: Path) -> None:
    listed = [photos / "IMG_0.jpg", photos / "missing.jpg"]
    images = load_photos(listed, RULE, PhotoOptions(skip_bad=True))
    assert images.names == ("IMG_0.jpg",)
    assert images.notes == (f"passed over {photos / 'missing.jpg'}: no such file",)


def test_only_broken_photos_are_an_error(photos: Path) -> None:
    for path in photos.iterdir():
        path.write_bytes(b"broken")
    options = PhotoOptions(skip_bad=True)
    refused(
        photos, options, r"none of 6 photos can be decoded; the first is .*IMG_0\.jpg, which is"
    )
    refused([photos / "IMG_0.jpg"], options, r"IMG_0\.jpg: is no image")
    refused(photos, PhotoOptions(skip_bad=True, max_views=2, choose="kcenter"), "none of 6 photos")


def test_broken_photos_do_not_count_as_different(photos: Path) -> None:
    (photos / "IMG_0.jpg").write_bytes(b"broken")
    options = PhotoOptions(skip_bad=True, max_views=3, choose="kcenter")
    images = load_photos(photos, RULE, options)
    assert len(images) == 3 and images.names[0] == "IMG_1.jpg"
    assert images.notes == (f"passed over {photos / 'IMG_0.jpg'}: is no image that can be read",)


# Masks


@pytest.mark.parametrize("name", ["IMG_1.png", "IMG_1.jpg.png", "IMG_1.PNG", "IMG_1.webp"])
def test_masks_have_the_names_of_their_photos(photos: Path, tmp_path: Path, name: str) -> None:
    path = mask(tmp_path / "masks" / name)
    images = load_photos(photos, RULE, PhotoOptions(masks=tmp_path / "masks"))
    assert images.mask_paths == (None, path, None, None, None, None)
    assert images.masks is not None and images.masks.shape == (6, 28, 42)
    assert not images.masks[1, :, :20].any() and images.masks[1, :, 22:].all()
    assert images.masks[[0, 2, 3, 4, 5]].all()
    np.testing.assert_array_equal(images.uint8, load_photos(photos, RULE).uint8)
    assert images.notes == (
        "5 of 6 photos have no mask: IMG_0.jpg, IMG_2.jpg, IMG_3.jpg, IMG_4.jpg and 1 more",
    )


def test_the_name_of_colmap_goes_before_the_bare_stem(photos: Path, tmp_path: Path) -> None:
    mask(tmp_path / "masks" / "IMG_1.png")
    of_colmap = mask(tmp_path / "masks" / "IMG_1.jpg.png")
    chosen = select_photos(photos, PhotoOptions(masks=tmp_path / "masks"))
    assert chosen.mask_paths[1] == of_colmap


def test_masks_of_a_rig_are_in_folders_of_their_own(photos: Path, tmp_path: Path) -> None:
    rig = tmp_path / "rig"
    for camera in ("left", "right"):
        (rig / camera).mkdir(parents=True)
        view(0).save(rig / camera / "1.jpg")
    path = mask(rig / "masks" / "right" / "1.png")
    chosen = select_photos(rig, PhotoOptions(masks=rig / "masks"))
    assert chosen.names == ("left/1.jpg", "right/1.jpg") and chosen.mask_paths == (None, path)
    assert len(chosen.notes) == 2  # of the folders, and of the photo without a mask
    path.unlink()
    mask(rig / "masks" / "1.png")
    refused(rig, PhotoOptions(masks=rig / "masks"), r"such as left/1\.png for left/1\.jpg")


def test_masks_match_names_in_either_composition(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    view(0).save(folder / "\u00fc.jpg")
    path = mask(tmp_path / "masks" / "u\u0308.png")
    assert select_photos(folder, PhotoOptions(masks=path.parent)).mask_paths == (path,)


def test_masks_follow_thinned_photos(photos: Path, tmp_path: Path) -> None:
    paths = [mask(tmp_path / "masks" / f"IMG_{i}.png") for i in range(6)]
    options = PhotoOptions(masks=tmp_path / "masks", every=3)
    assert select_photos(photos, options).mask_paths == (paths[0], paths[3])
    (photos / "IMG_0.jpg").write_bytes(b"broken")
    options = PhotoOptions(masks=tmp_path / "masks", every=3, skip_bad=True)
    images = load_photos(photos, RULE, options)
    assert images.mask_paths == (paths[3],) and images.names == ("IMG_3.jpg",)


def test_masks_that_fit_no_photo(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    options = PhotoOptions(masks=folder)
    refused(photos, options, "masks: no such folder; check the path")
    folder.mkdir()
    refused(photos, options, r"no file in it is the mask of a photo \(0 images\); name masks like")
    mask(folder / "other.png")
    refused(photos, options, r"\(1 images\); name .* such as IMG_0\.png for IMG_0\.jpg")
    refused(photos, PhotoOptions(masks=photos), "--masks: is the folder of the photos; put masks")
    (tmp_path / "file").touch()
    refused(photos, PhotoOptions(masks=tmp_path / "file"), "file: is no folder; check the path")


def test_masks_of_another_shape_or_broken_are_named(photos: Path, tmp_path: Path) -> None:
    path = mask(tmp_path / "masks" / "IMG_3.png", size=(60, 60))
    options = PhotoOptions(masks=tmp_path / "masks")
    refused(photos, options, r"IMG_3\.png: has 60 x 60 pixels, another shape than the photo's")
    path.write_bytes(b"broken")
    refused(photos, options, r"IMG_3\.png: is no image that can be read")
    images = load_photos(photos, RULE, PhotoOptions(masks=tmp_path / "masks", skip_bad=True))
    assert len(images) == 5
    passed = f"passed over {photos / 'IMG_3.jpg'}: {path} is no image that can be read"
    assert passed in images.notes


def test_masks_that_leave_nothing(photos: Path, tmp_path: Path) -> None:
    for i in range(6):
        mask(tmp_path / "masks" / f"IMG_{i}.png", slice(0, 0))
    options = PhotoOptions(masks=tmp_path / "masks")
    refused(photos, options, "masks and the transparency of the photos leave no pixel; black in a")


# From end to end


def test_transparent_background_gives_no_points(tmp_path: Path) -> None:
    pixels = np.dstack([np.asarray(view(1)), np.zeros((60, 80), np.uint8)])
    pixels[:, 20:60, 3] = 255
    paths = []
    for i in range(2):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(pixels).save(paths[-1])
    scene = covis.reconstruct(paths, DEMO)
    width = scene.image_size[1]
    columns = scene.valid.any(axis=(0, 1))
    assert not columns[: width // 4 - 1].any() and not columns[-width // 4 + 2 :].any()
    assert columns[width // 4 + 1 : -width // 4 - 1].all()
    _, rgb, _ = scene.point_cloud(percentile=0)
    assert len(rgb) and not (rgb == 255).all(axis=1).any()


def test_masked_pixels_give_no_points(photos: Path, tmp_path: Path) -> None:
    for i in range(6):
        mask(tmp_path / "masks" / f"IMG_{i}.png")
    whole = covis.reconstruct(photos, DEMO)
    options = PhotoOptions(masks=tmp_path / "masks")
    scene = covis.reconstruct(photos, DEMO, photo_options=options)
    width = scene.image_size[1]
    assert not scene.valid[:, :, : width // 2 - 1].any()
    np.testing.assert_array_equal(scene.depth, whole.depth)  # the model sees the whole photo
    xyz, _, _ = scene.point_cloud(percentile=0)
    assert 0 < len(xyz) < 0.6 * len(whole.point_cloud(percentile=0)[0])
    assert scene.mask_paths is not None and scene.mask_paths[0] is not None


def test_each_note_is_printed_once(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "IMG_3.jpg").write_bytes(b"broken")
    (photos / "notes.txt").touch()
    mask(tmp_path / "masks" / "IMG_0.png")
    options = ["--skip-bad", "--max-views", "3", "--masks", str(tmp_path / "masks")]
    out = tmp_path / "out"
    assert run_command(["run", str(DEMO), str(photos), "--out", str(out), *options]) == 0
    lines = capsys.readouterr().err.splitlines()
    for part in ("notes.txt", "passed over " + str(photos / "IMG_3.jpg"), "photos have no mask"):
        assert len([line for line in lines if part in line]) == 1, part
    assert any(line.startswith("2 views") for line in lines)


def test_compare_and_bench_take_the_same_photos(photos: Path) -> None:
    from covis.commands.bench import BenchCommand
    from covis.commands.bench import pictures as bench_pictures
    from covis.commands.compare import CompareCommand
    from covis.commands.compare import _images as compare_pictures
    from covis.evaluation.compare.stages import Side

    (photos / "notes.txt").touch()
    pipeline = covis.load(DEMO)
    side = Side(pipeline, pipeline.bundle.manifest.sparsity)
    command = CompareCommand(DEMO, (photos,), views=2, choice=PhotoOptions(every=2))
    compared = compare_pictures(command, side)
    assert compared.names == ("IMG_0.jpg", "IMG_2.jpg") and "notes.txt" in compared.notes[0]
    measured = bench_pictures(BenchCommand(DEMO, photos, views=8), pipeline.bundle)
    assert len(measured) == 8 and measured.names[6] == "IMG_0 (2).jpg"
    assert "notes.txt" in measured.notes[0]


def test_tuning_passes_over_broken_photos(photos: Path) -> None:
    from covis.engines.options import Sparsity
    from covis.evaluation.sweep.tune import Tuner

    (photos / "IMG_3.jpg").write_bytes(b"broken")
    tuner = Tuner(covis.load(DEMO), 1.0, 0.1, skip_bad=True)
    scene, _ = tuner._run(select_photos(photos).photos, Sparsity("dense"))
    assert len(scene) == 5


def test_a_run_without_a_usable_photo_writes_nothing(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in photos.iterdir():
        path.write_bytes(b"")
    code = run_command(["run", str(DEMO), str(photos), "--out", str(tmp_path / "out")])
    assert code == ExitCode.USER and not (tmp_path / "out").exists()
    assert "--skip-bad" in capsys.readouterr().err.splitlines()[-1]


def test_some_photos_of_a_selection(photos: Path, tmp_path: Path) -> None:
    mask(tmp_path / "masks" / "IMG_4.png")
    whole = select_photos(photos, PhotoOptions(masks=tmp_path / "masks"))
    some = whole.take(np.array([4, 1]))
    assert some.names == ("IMG_4.jpg", "IMG_1.jpg")
    assert some.mask_paths == (tmp_path / "masks" / "IMG_4.png", None)
    assert whole.notes and not some.notes, "notes stay with the whole selection"
    np.testing.assert_array_equal(some.load(RULE).uint8, whole.load(RULE).uint8[[4, 1]])
