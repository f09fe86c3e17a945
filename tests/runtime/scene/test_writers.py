"""Every format, read back by a foreign reader, against its scene."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import trimesh
from PIL import Image

from covis.engines.errors import CovisError
from covis.runtime.scene import geometry
from covis.runtime.scene.writers import FORMATS, colmap, glb, write
from covis.runtime.scene.writers.glb import frusta
from covis.runtime.scene.writers.saliency import _LEVELS, colours, draw_saliency
from tests.runtime.scene.random_scene import random_scene

NAMES = ("a b.jpg", "c\nd%.jpg", "e\udcff.jpg")
COLMAP = Path("colmap/sparse/0")


def test_all_formats_at_once(tmp_path: Path) -> None:
    files = write(random_scene(), tmp_path / "out")
    names = [path.relative_to(tmp_path / "out").as_posix() for path in files]
    model = [
        f"colmap/sparse/0/{n}.{e}"
        for e in ("bin", "txt")
        for n in ("cameras", "images", "points3D")
    ]
    assert names == [
        *("scene.npz", "points.ply", "scene.glb", *model),
        *("transforms.json", "saliency.png", "scene.html", "scene.json"),
    ]
    found = {p for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found == set(files)


def test_npz_holds_everything(tmp_path: Path) -> None:
    scene = random_scene(names=NAMES, metric=True)
    (path, _) = write(scene, tmp_path / "out", ["npz"])
    with np.load(path, allow_pickle=False) as record:
        for name in ("extrinsics", "depth", "valid", "images", "similarity", "original_sizes"):
            np.testing.assert_array_equal(record[name], getattr(scene, name))
        assert tuple(record["names"]) == NAMES and bool(record["metric"])
        assert json.loads(str(record["provenance"])) == scene.provenance
        assert json.loads(str(record["sparsity"]))["kept_pairs"] == scene.sparsity.kept_pairs  # type: ignore[union-attr]


def test_ply_read_by_trimesh(tmp_path: Path) -> None:
    scene = random_scene()
    path, _ = write(scene, tmp_path / "out", ["ply"], conf_percentile=40)
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
    path, _ = write(scene, tmp_path / "out", ["glb"])
    loaded = trimesh.load(path)
    xyz, rgb, _ = scene.point_cloud(percentile=20)
    y_up = [1, -1, -1]
    np.testing.assert_allclose(loaded.geometry["points"].vertices, xyz * y_up, rtol=1e-6)
    np.testing.assert_array_equal(loaded.geometry["points"].colors[:, :3], rgb)
    corners = frusta(scene, xyz).reshape(-1, 3) * y_up
    ends = loaded.geometry["cameras"].vertices
    gap = np.linalg.norm(ends[:, None] - corners[None], axis=-1)
    assert gap.min(axis=0).max() < 1e-5 and gap.min(axis=1).max() < 1e-5


def test_glb_thins_evenly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(glb, "MAX_POINTS", 50)
    scene = random_scene()
    path, _ = write(scene, tmp_path / "out", ["glb"])
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
    scene = random_scene(names=(*NAMES[:2], "plain.jpg"))
    write(scene, tmp_path / "out", ["colmap"])
    model = pycolmap.Reconstruction()
    getattr(model, f"read_{form}")(str(tmp_path / "out" / COLMAP))
    samples = scene.point_samples(percentile=20)
    assert model.num_images() == 3 and model.num_points3D() == len(samples.xyz)
    text = ("a%20b.jpg", "c%0Ad%25.jpg", "plain.jpg")
    worst = 0.0
    for i in range(3):
        image, camera = model.images[i + 1], model.cameras[i + 1]
        assert image.name == (text if form == "text" else scene.names)[i]
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


def test_colmap_points_lie_on_the_photo_where_it_was_seen(tmp_path: Path) -> None:
    scene = random_scene()
    model = colmap.colmap_model(scene, scene.point_samples())
    for size, seen in zip(scene.original_sizes, model.observations, strict=True):
        assert (seen["xy"] > 0).all() and (seen["xy"] < size[::-1]).all()


def test_colmap_thins_evenly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(colmap, "MAX_POINTS", 100)
    write(random_scene(), tmp_path / "out", ["colmap"])
    model = pycolmap.Reconstruction(tmp_path / "out" / COLMAP)
    assert model.num_points3D() == 100
    assert all(30 <= len(image.points2D) <= 36 for image in model.images.values())
    model.update_point_3d_errors()
    assert model.compute_mean_reprojection_error() < 1e-3


def test_colmap_keeps_any_file_name(tmp_path: Path) -> None:
    write(random_scene(names=NAMES), tmp_path / "out", ["colmap"])
    assert b"\0" not in (tmp_path / "out" / COLMAP / "images.txt").read_bytes()
    assert b"e\xff.jpg\0" in (tmp_path / "out" / COLMAP / "images.bin").read_bytes()


def test_a_file_of_two_formats_is_listed_once(tmp_path: Path) -> None:
    files = write(random_scene(), tmp_path / "out", ["nerfstudio", "ply", "ply"])
    assert [path.name for path in files] == ["transforms.json", "points.ply", "scene.json"]


def test_nerfstudio(tmp_path: Path) -> None:
    photos = tmp_path / "my photos"
    scene = random_scene(paths=(photos / "0.jpg", photos / "1.jpg", None))
    write(scene, tmp_path / "out", ["nerfstudio"])
    record = json.loads((tmp_path / "out/transforms.json").read_text())
    assert [f["file_path"] for f in record["frames"]] == [
        "../my photos/0.jpg",
        "../my photos/1.jpg",
        "images/002.jpg",
    ]
    assert (tmp_path / "out" / record["ply_file_path"]).is_file()
    samples = scene.point_samples()
    for i, frame in enumerate(record["frames"]):
        # By the format's own definition: x right, y up, looking along -z, camera to world.
        world_to_camera = np.linalg.inv(np.array(frame["transform_matrix"]))
        xyz = samples.xyz[samples.view == i]
        x, y, z = world_to_camera[:3, :3] @ xyz.T + world_to_camera[:3, 3:]
        assert (z < 0).all()
        u = frame["fl_x"] * x / -z + frame["cx"]
        v = frame["fl_y"] * -y / -z + frame["cy"]
        expected, _ = geometry.project(xyz, scene.intrinsics_original[i], scene.extrinsics[i])
        np.testing.assert_allclose(np.stack([u, v], -1), expected, atol=1e-9)
        assert [frame["h"], frame["w"]] == scene.original_sizes[i].tolist()


@pytest.mark.parametrize("views", [1, 3, 25, 700])
def test_saliency_picture_shows_the_numbers(tmp_path: Path, views: int) -> None:
    rng = np.random.default_rng(views)
    similarity = rng.uniform(0.2, 1, (views, views)).astype(np.float32)
    level = rng.integers(0, 3, (views, views)).astype(np.int8)
    picture = np.asarray(draw_saliency(similarity, level))
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


def test_saliency_file_and_its_absence(tmp_path: Path) -> None:
    path, _ = write(random_scene(), tmp_path / "out", ["saliency"])
    with Image.open(path) as picture:
        assert picture.mode == "RGB" and picture.width > 1300
    with pytest.raises(CovisError, match="no similarity matrix; leave out"):
        write(random_scene(similarity=None), tmp_path / "other", ["saliency"])
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
    write(bad, tmp_path / "out")
    summary = json.loads((tmp_path / "out/scene.json").read_text())
    assert summary["left_out"] == {"views": ["002.jpg"], "points": 4}
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
        write(scene, tmp_path / "out", FORMATS)
    assert caught.value.code == 4 and not (tmp_path / "out").exists()
