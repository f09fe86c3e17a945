"""Every format, read back by a foreign reader, against its scene."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
import trimesh
from PIL import Image

from covis.commands.run import _views, shown
from covis.engines.errors import CovisError
from covis.runtime.scene import geometry
from covis.runtime.scene.scene import Scene
from covis.runtime.scene.writers import colmap, glb, write
from covis.runtime.scene.writers.finite import LeftOut
from covis.runtime.scene.writers.frames import Frames
from covis.runtime.scene.writers.glb import frusta
from covis.runtime.scene.writers.options import Format, OutputOptions
from covis.runtime.scene.writers.pair_maps import PairMap
from covis.runtime.scene.writers.saliency import _LEVELS, colours, draw_saliency
from tests.runtime.scene.random_scene import random_scene

NAMES = ("a b.jpg", "c\nd%.jpg", "e\udcff.jpg")
COLMAP = Path("sparse/0")


def only(*formats: Format, **options: Any) -> OutputOptions:
    return OutputOptions(formats=formats, **options)


def full_size(scene: Scene) -> Frames:
    """Return images at full size, as if the photos of a random scene were there."""
    M = len(scene)
    return Frames(
        names=tuple(f"{i:03d}.png" for i in range(M)),
        sizes=scene.original_sizes,
        intrinsics=scene.intrinsics_original.astype(np.float64),
        origin="photos",
        copied=(False,) * M,
    )


def test_all_formats_at_once(tmp_path: Path) -> None:
    files, notes = write(random_scene(), tmp_path / "out")
    names = [path.relative_to(tmp_path / "out").as_posix() for path in files]
    model = [f"sparse/0/{n}.{e}" for e in ("bin", "txt") for n in ("cameras", "images", "points3D")]
    assert names == [
        *(f"images/00{i}.png" for i in range(3)),
        *(f"depth/00{i}.png" for i in range(3)),
        *("points.ply", *model, "transforms.json"),
        *("scene.npz", "scene.glb", "saliency.png", "scene.html", "scene.json"),
    ]
    found = {p for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found == set(files)
    assert len(notes) == 1 and "the scene does not know its photos" in notes[0]


def test_npz_holds_everything(tmp_path: Path) -> None:
    scene = random_scene(names=NAMES, metric=True)
    path, _ = write(scene, tmp_path / "out", only("npz")).files
    with np.load(path, allow_pickle=False) as record:
        for name in ("extrinsics", "depth", "valid", "images", "similarity", "original_sizes"):
            np.testing.assert_array_equal(record[name], getattr(scene, name))
        assert tuple(record["names"]) == NAMES and bool(record["metric"])
        assert json.loads(str(record["provenance"])) == scene.provenance
        assert json.loads(str(record["sparsity"]))["kept_pairs"] == scene.sparsity.kept_pairs  # type: ignore[union-attr]


def test_ply_read_by_trimesh(tmp_path: Path) -> None:
    scene = random_scene()
    path, _ = write(scene, tmp_path / "out", only("ply", conf_percentile=40)).files
    xyz, rgb, conf = scene.point_cloud(percentile=40)
    cloud = trimesh.load(path)
    assert len(cloud.vertices) == len(xyz) == pytest.approx(0.6 * 3 * 28 * 42, abs=2)
    np.testing.assert_array_equal(cloud.vertices, xyz.astype(np.float32))
    np.testing.assert_array_equal(cloud.colors[:, :3], rgb)
    header, _, body = path.read_bytes().partition(b"end_header\n")
    assert b"format binary_little_endian 1.0" in header and b"scene's own scale" in header
    table = np.frombuffer(body, "<f4,<f4,<f4,3u1,<f4")
    np.testing.assert_array_equal(table["f4"], conf)


def test_empty_cloud_is_still_a_file(tmp_path: Path) -> None:
    scene = random_scene(valid=np.zeros((3, 28, 42), bool))
    write(scene, tmp_path / "out")
    assert b"element vertex 0\n" in (tmp_path / "out/points.ply").read_bytes()
    assert pycolmap.Reconstruction(tmp_path / "out" / COLMAP).num_points3D() == 0
    assert set(trimesh.load(tmp_path / "out/scene.glb").geometry) == {"cameras"}


def test_glb_read_by_trimesh(tmp_path: Path) -> None:
    scene = random_scene()
    path, _ = write(scene, tmp_path / "out", only("glb")).files
    loaded = trimesh.load(path)
    xyz, *_ = scene.point_cloud(percentile=20)
    y_up = [1, -1, -1]
    np.testing.assert_allclose(loaded.geometry["points"].vertices, xyz * y_up, rtol=1e-6)
    corners = frusta(scene, xyz).reshape(-1, 3) * y_up
    ends = loaded.geometry["cameras"].vertices
    gap = np.linalg.norm(ends[:, None] - corners[None], axis=-1)
    assert gap.min(axis=0).max() < 1e-5 and gap.min(axis=1).max() < 1e-5


def test_glb_thins_evenly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(glb, "MAX_POINTS", 50)
    scene = random_scene()
    path, _ = write(scene, tmp_path / "out", only("glb")).files
    xyz = scene.point_cloud(percentile=20)[0]
    chosen = np.linspace(0, len(xyz) - 1, 50).astype(int)
    shown = trimesh.load(path).geometry["points"].vertices
    np.testing.assert_allclose(shown, xyz[chosen] * [1, -1, -1], rtol=1e-6)


def test_frusta_show_the_corners_of_the_images() -> None:
    scene = random_scene()
    corners = frusta(scene, scene.point_cloud()[0])
    np.testing.assert_allclose(corners[:, 4], scene.camera_centers())
    uv, z = geometry.project(corners[:, :4], scene.intrinsics, scene.extrinsics)
    np.testing.assert_allclose(
        uv, np.tile([[0, 0], [42, 0], [42, 28], [0, 28]], (3, 1, 1)), atol=1e-9
    )
    assert (z > 0).all()


@pytest.mark.parametrize("form", ["binary", "text"])
def test_colmap_round_trip(tmp_path: Path, form: str) -> None:
    scene = random_scene()
    samples = scene.point_samples(percentile=20)
    place = tmp_path / "model"
    place.mkdir()
    model_files = colmap.colmap_model(scene, full_size(scene), samples)
    getattr(colmap, f"_write_{form}")(model_files, place)
    model = pycolmap.Reconstruction()
    getattr(model, f"read_{form}")(str(place))
    assert model.num_images() == 3 and model.num_points3D() == len(samples.xyz)
    worst = 0.0
    for i in range(3):
        image, camera = model.images[i + 1], model.cameras[i + 1]
        assert image.name == f"00{i}.png"
        assert (camera.height, camera.width) == tuple(scene.original_sizes[i])
        assert camera.model.name == "PINHOLE"
        np.testing.assert_allclose(
            camera.calibration_matrix(), scene.intrinsics_original[i], atol=1e-9
        )
        pose = image.cam_from_world()
        np.testing.assert_allclose(pose.matrix(), scene.extrinsics[i], atol=1e-12)
        np.testing.assert_allclose(image.projection_center(), scene.camera_centers()[i], atol=1e-9)
        mine = samples.view == i
        assert len(image.points2D) == mine.sum()
        for seen in image.points2D:
            point = model.points3D[seen.point3D_id]
            projected = image.project_point(point.xyz)
            worst = max(worst, float(np.abs(projected - seen.xy).max()))
        ids = [seen.point3D_id for seen in image.points2D]
        np.testing.assert_array_equal([model.points3D[n].xyz for n in ids], samples.xyz[mine])
        np.testing.assert_array_equal([model.points3D[n].color for n in ids], samples.rgb[mine])
    assert worst < 1e-3  # 1e-9 in truth: both sides are float64
    model.update_point_3d_errors()
    assert model.compute_mean_reprojection_error() < 1e-3


def test_colmap_points_lie_on_the_photo_where_it_was_seen() -> None:
    scene = random_scene()
    model = colmap.colmap_model(scene, full_size(scene), scene.point_samples())
    for size, seen in zip(scene.original_sizes, model.observations, strict=True):
        assert (seen["xy"] > 0).all() and (seen["xy"] < size[::-1]).all()


def test_colmap_has_one_camera_for_views_that_share_it(tmp_path: Path) -> None:
    scene = random_scene()
    K, sizes = scene.intrinsics.copy(), scene.original_sizes.copy()
    K[2], sizes[2] = K[0], sizes[0]
    shared = random_scene(
        intrinsics=K,
        intrinsics_original=K,
        original_sizes=sizes,
        shared_cameras=np.array([7, 3, 7]),
    )
    write(shared, tmp_path / "out", only("colmap"))
    for form in ("binary", "text"):
        model = pycolmap.Reconstruction()
        getattr(model, f"read_{form}")(str(tmp_path / "out" / COLMAP))
        assert model.num_cameras() == 2
        assert model.images[1].camera_id == model.images[3].camera_id != model.images[2].camera_id
        np.testing.assert_allclose(model.images[3].camera.calibration_matrix(), K[0], atol=1e-9)


@pytest.mark.parametrize(("max_points", "count"), [(100, 100), (0, 150), (10_000, 150)])
def test_colmap_thins_evenly(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, max_points: int, count: int
) -> None:
    monkeypatch.setattr(colmap, "MAX_POINTS", 150)
    write(random_scene(), tmp_path / "out", only("colmap", max_points=max_points))
    model = pycolmap.Reconstruction(tmp_path / "out" / COLMAP)
    assert model.num_points3D() == count
    assert all(
        0.9 * count / 3 <= len(image.points2D) <= 1.1 * count / 3 for image in model.images.values()
    )
    model.update_point_3d_errors()
    assert model.compute_mean_reprojection_error() < 1e-3


@pytest.mark.parametrize(("max_points", "count"), [(50, 50), (0, 3528), (1_000_000, 3528)])
def test_the_cloud_that_splatting_starts_from_is_thinned(
    tmp_path: Path, max_points: int, count: int
) -> None:
    options = only("nerfstudio", max_points=max_points, conf_percentile=0)
    write(random_scene(), tmp_path / "out", options)
    record = json.loads((tmp_path / "out/transforms.json").read_text())
    cloud = trimesh.load(tmp_path / "out" / record["ply_file_path"])
    xyz = random_scene().point_cloud()[0]
    chosen = np.linspace(0, len(xyz) - 1, count).astype(int)
    np.testing.assert_array_equal(cloud.vertices, xyz[chosen].astype(np.float32))


def test_a_format_brings_what_it_refers_to_once(tmp_path: Path) -> None:
    files, _ = write(random_scene(), tmp_path / "out", only("nerfstudio", "ply", "ply"))
    assert [path.name for path in files] == [
        *(f"00{i}.png" for i in range(3)),
        *("points.ply", "transforms.json", "scene.json"),
    ]


def test_nerfstudio(tmp_path: Path) -> None:
    scene = random_scene()
    write(scene, tmp_path / "out", only("nerfstudio"))
    record = json.loads((tmp_path / "out/transforms.json").read_text())
    samples = scene.point_samples()
    for i, frame in enumerate(record["frames"]):
        # By the format's own definition: x right, y up, looking along -z, camera to world.
        world_to_camera = np.linalg.inv(np.array(frame["transform_matrix"]))
        xyz = samples.xyz[samples.view == i]
        x, y, z = world_to_camera[:3, :3] @ xyz.T + world_to_camera[:3, 3:]
        assert (z < 0).all()
        u = frame["fl_x"] * x / -z + frame["cx"]
        v = frame["fl_y"] * -y / -z + frame["cy"]
        expected, _ = geometry.project(xyz, scene.intrinsics[i], scene.extrinsics[i])
        np.testing.assert_allclose(np.stack([u, v], -1), expected, atol=1e-9)
        with Image.open(tmp_path / "out" / frame["file_path"]) as image:
            assert image.size == (frame["w"], frame["h"]) == (42, 28)


@pytest.mark.parametrize("views", [1, 3, 25, 700])
def test_saliency_picture_shows_the_numbers(tmp_path: Path, views: int) -> None:
    rng = np.random.default_rng(views)
    similarity = rng.uniform(0.2, 1, (views, views)).astype(np.float32)
    level = rng.integers(0, 3, (views, views)).astype(np.int8)
    picture = np.asarray(draw_saliency(similarity, [PairMap("layers 0-1", level)]))
    side = views * max(640 // views, 1)
    middles = (np.arange(views) + 0.5) * (side / views)
    rows = 64 + middles.astype(int)
    columns = 70 + middles.astype(int)
    low = min(np.floor(similarity.min() * 10) / 10, 0.9)
    shown = picture[np.ix_(rows, columns)].astype(int)
    assert np.abs(shown - colours(similarity, low)).max() <= 1
    columns += side + 70
    np.testing.assert_array_equal(picture[np.ix_(rows, columns)], _LEVELS[level])
    # Titles and tick labels are there: ink above the panels and to their left.
    assert (picture[:60].min(axis=2) < 100).sum() > 200
    assert (picture[64 : 64 + side, :66].min(axis=2) < 100).sum() > 8


def test_saliency_picture_has_a_panel_for_each_map_and_marks_its_anchors() -> None:
    views, anchors = 20, (3, 11)
    rng = np.random.default_rng(0)
    similarity = rng.uniform(0.2, 1, (views, views)).astype(np.float32)
    levels = rng.integers(0, 2, (4, views, views)).astype(np.int8) * 2
    maps = [PairMap(f"layer {r}", level, anchors[:r]) for r, level in enumerate(levels)]
    picture = np.asarray(draw_saliency(similarity, maps, anchors))
    step, height = 640 + 70, 64 + 640 + 92
    assert picture.shape == (2 * height, 2 * 70 + 3 * step - 70, 3)
    middles = np.arange(views) * 32 + 16
    for number, each in enumerate((PairMap("similarity", levels[0], anchors), *maps)):
        left, top = 70 + number % 3 * step, 64 + number // 3 * height
        if number:
            shown = picture[np.ix_(top + middles, left + middles)]
            np.testing.assert_array_equal(shown, _LEVELS[each.level])
        red = (picture[top - 8, left + middles] == (214, 40, 31)).all(axis=-1)
        assert np.flatnonzero(red).tolist() == list(each.anchors)


def test_saliency_file_and_its_absence(tmp_path: Path) -> None:
    path, _ = write(random_scene(), tmp_path / "out", only("saliency")).files
    with Image.open(path) as picture:
        assert picture.mode == "RGB" and picture.width > 1300
    with pytest.raises(CovisError, match="no similarity matrix; leave out"):
        write(random_scene(similarity=None), tmp_path / "other", only("saliency"))
    assert not (tmp_path / "other").exists()


def test_brightness_grows_with_similarity() -> None:
    ramp = colours(np.linspace(0, 1, 64), 0.0).astype(float) @ [0.299, 0.587, 0.114]
    assert (np.diff(ramp) > 0).all()


def test_non_finite_is_left_out_and_counted(tmp_path: Path) -> None:
    scene = random_scene(4)
    K, depth, conf = scene.intrinsics.copy(), scene.depth.copy(), scene.depth_conf
    assert conf is not None and scene.similarity is not None
    K[2, 0, 0] = np.inf
    depth[0, 3, 4:7] = (np.nan, np.inf, -np.inf)
    depth[2] = np.nan
    conf = conf.copy()
    conf[1, 0, 0] = np.nan
    similarity = scene.similarity.copy()
    similarity[0, 1] = np.nan
    bad = random_scene(4, intrinsics=K, depth=depth, depth_conf=conf, similarity=similarity)
    notes = write(bad, tmp_path / "out").notes
    assert "1 view has no finite camera and is left out: 002.jpg" in notes
    summary = json.loads((tmp_path / "out/scene.json").read_text())
    assert summary["left_out"] == {"views": ["002.jpg"], "points": 4}
    assert summary["notes"] == list(notes)
    assert summary["views"] == ["000.jpg", "001.jpg", "003.jpg"]
    with np.load(tmp_path / "out/scene.npz", allow_pickle=False) as record:
        assert list(record["names"]) == summary["views"]
        for name in record.files:
            if record[name].dtype.kind == "f":
                assert np.isfinite(record[name]).all(), name
        assert not record["valid"][0, 3, 4:7].any() and not record["valid"][1, 0, 0]
    assert np.isfinite(trimesh.load(tmp_path / "out/points.ply").vertices).all()
    model = pycolmap.Reconstruction(tmp_path / "out" / COLMAP)
    assert model.num_images() == 3
    for text in ("cameras.txt", "images.txt", "points3D.txt"):
        content = (tmp_path / "out" / COLMAP / text).read_text().lower()
        assert "nan" not in content and "inf" not in content
    for text in ("transforms.json", "scene.json"):
        json.loads((tmp_path / "out" / text).read_text(), parse_constant=_refuse)


def _refuse(word: str) -> None:
    raise AssertionError(word)


def test_no_usable_camera_at_all(tmp_path: Path) -> None:
    scene = random_scene(extrinsics=np.full((3, 3, 4), np.nan))
    with pytest.raises(CovisError, match="no view has a finite camera") as caught:
        write(scene, tmp_path / "out")
    assert caught.value.code == 4 and not (tmp_path / "out").exists()


def test_many_views_without_a_camera_take_one_line() -> None:
    names = tuple(f"{i:02d}\n.jpg" for i in range(25))
    (line,) = LeftOut(views=names, points=0).notes
    assert line.startswith("25 views have no finite camera and are left out: 00\\n.jpg, 01")
    assert line.endswith("09\\n.jpg and 15 more") and "\n" not in line


def test_the_screen_counts_the_views_that_are_in_the_output() -> None:
    extrinsics = random_scene().extrinsics.copy()
    assert _views(random_scene()) == "3 views"
    extrinsics[1] = np.nan
    assert _views(random_scene(extrinsics=extrinsics)) == "2 of 3 views"


def test_the_screen_names_a_folder_of_many_files_once(tmp_path: Path) -> None:
    files, _ = write(random_scene(), tmp_path / "out", only("depth", "colmap"))
    lines = [path.relative_to(tmp_path / "out").as_posix() for path in shown(files)]
    assert lines[:2] == ["images", "depth"] and lines[-1] == "scene.json"
    assert len(lines) == 2 + 6 + 1
