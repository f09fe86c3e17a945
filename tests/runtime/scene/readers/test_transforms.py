"""`transforms.json`, masks and depth images as nerfstudio's data parser and datasets read them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from plyfile import PlyData

from tests.runtime.scene.globe import RADIUS, colour_error
from tests.runtime.scene.readers.written import Written


def frames(written: Written) -> list[dict[str, Any]]:
    record = json.loads((written.place / "transforms.json").read_text())
    assert len(record["frames"]) == len(written.views)
    return list(record["frames"])


def opened(written: Written, name: str) -> Any:
    with Image.open(written.place / name) as image:
        return np.asarray(image)


def camera_space(frame: dict[str, Any], xyz: Any) -> Any:
    world_to_camera = np.linalg.inv(np.array(frame["transform_matrix"]))
    return xyz @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]


def test_the_cloud_has_the_colours_of_all_image_files(written: Written) -> None:
    """Every point is seen by every camera before which it lies: the globe hides nothing."""
    cloud = PlyData.read(written.place / "points.ply")["vertex"]
    xyz = np.stack([cloud[c] for c in "xyz"], axis=1).astype(np.float64)
    rgb = np.stack([cloud[c] for c in ("red", "green", "blue")], axis=1)
    np.testing.assert_allclose(np.linalg.norm(xyz, axis=1), RADIUS, atol=1e-5)
    for frame in frames(written):
        x, y, z = camera_space(frame, xyz).T
        front = z < -0.05
        u = frame["fl_x"] * x / -z + frame["cx"]
        v = frame["fl_y"] * -y / -z + frame["cy"]
        image = opened(written, frame["file_path"])
        assert image.shape == (frame["h"], frame["w"], 3)
        uv = np.stack([u, v], axis=1)[front]
        if "Kuche" in frame["file_path"]:  # transparent above: only the opaque part has colours
            below = uv[:, 1] > frame["h"] / 3 + 1
            error, chance = colour_error(uv[below], image, rgb[front][below])
        else:
            error, chance = colour_error(uv, image, rgb[front])
        assert error < 2 and chance > 30, (frame["file_path"], error, chance)


def test_depth_images_lie_on_the_globe(written: Written) -> None:
    record = json.loads((written.place / "transforms.json").read_text())
    unit = record["depth_unit_scale_factor"]
    assert unit == 0.001  # the value that nerfstudio takes by default
    for frame in frames(written):
        stored = opened(written, frame["depth_file_path"])
        assert stored.dtype == np.uint16 and stored.shape == (frame["h"], frame["w"])
        row, column = np.nonzero(stored)
        assert len(row) > 0.6 * stored.size
        depth = stored[row, column] * unit
        x = (column + 0.5 - frame["cx"]) / frame["fl_x"] * depth
        y = -(row + 0.5 - frame["cy"]) / frame["fl_y"] * depth
        pose = np.array(frame["transform_matrix"])
        world = np.stack([x, y, -depth], axis=1) @ pose[:3, :3].T + pose[:3, 3]
        # The nearest pixel of the model's image is up to half of its pixel away.
        assert np.abs(np.linalg.norm(world, axis=1) - RADIUS).max() < 0.03


def test_masks_are_for_all_images_or_none(written: Written) -> None:
    for frame in frames(written):
        mask = opened(written, frame["mask_path"])
        assert mask.shape == (frame["h"], frame["w"]) and mask.dtype == np.uint8
        # COLMAP looks for a mask under the name of the image and .png.
        assert frame["mask_path"] == f"masks/{frame['file_path'].removeprefix('images/')}.png"
        transparent = np.zeros(mask.shape, bool)
        if "Kuche" in frame["file_path"]:
            transparent[: frame["h"] // 3] = True
            assert not opened(written, frame["depth_file_path"])[: frame["h"] // 3 - 2].any()
        np.testing.assert_array_equal(mask, np.where(transparent, 0, 255))


@pytest.mark.parametrize("key", ["file_path", "mask_path", "depth_file_path"])
def test_all_paths_are_relative_and_there(written: Written, key: str) -> None:
    for frame in frames(written):
        assert not frame[key].startswith(("/", ".")) and (written.place / frame[key]).is_file()
