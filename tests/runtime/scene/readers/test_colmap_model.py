"""`sparse/0` and `images/` as pycolmap, gsplat's parser and the readers of 3DGS open them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pycolmap
import pytest
from PIL import Image

from tests.runtime.scene.globe import colour_error
from tests.runtime.scene.readers.written import Written


def opened(path: Path) -> Any:
    """Open an image as readers do that know nothing of EXIF."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("form", ["binary", "text"])
def test_points_have_the_colours_of_the_image_files(written: Written, form: str) -> None:
    model = pycolmap.Reconstruction()
    getattr(model, f"read_{form}")(str(written.place / "sparse/0"))
    assert model.num_reg_images() == len(written.views)
    for image in model.images.values():
        pixels = opened(written.place / "images" / image.name)
        assert pixels.shape[:2] == (image.camera.height, image.camera.width)
        ids = [seen.point3D_id for seen in image.points2D]
        xyz = np.array([model.points3D[n].xyz for n in ids])
        rgb = np.array([model.points3D[n].color for n in ids])
        uv = np.array([image.project_point(point) for point in xyz])
        error, chance = colour_error(uv, pixels, rgb)
        assert error < 2 and chance > 30, (image.name, error, chance)


def test_both_forms_are_the_same_model(written: Written) -> None:
    binary, text = pycolmap.Reconstruction(), pycolmap.Reconstruction()
    binary.read_binary(str(written.place / "sparse/0"))
    text.read_text(str(written.place / "sparse/0"))
    assert binary.num_points3D() == text.num_points3D() == len(binary.points3D) > 1000
    for i, image in binary.images.items():
        other = text.images[i]
        assert image.name == other.name and image.camera_id == other.camera_id
        np.testing.assert_array_equal(
            image.cam_from_world().matrix(), other.cam_from_world().matrix()
        )
        np.testing.assert_array_equal(image.camera.params, other.camera.params)
        np.testing.assert_array_equal(
            [p.xy for p in image.points2D], [p.xy for p in other.points2D]
        )
    for i, point in binary.points3D.items():
        assert (point.xyz == text.points3D[i].xyz).all()
        assert (point.color == text.points3D[i].color).all()


def test_as_gsplats_parser_reads_it(written: Written) -> None:
    """The steps of `examples/datasets/colmap.py` of gsplat, with the same library calls.

    It sorts the names of the model and all files below images/, pairs them by their order, takes
    K, size, and points seen by each image, and scales K by the size of the first image file.
    """
    model = pycolmap.Reconstruction(str(written.place / "sparse/0/"))
    images = [model.images[i] for i in model.reg_image_ids()]
    names = sorted(image.name for image in images)
    folder = written.place / "images"
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert files == names
    assert opened(folder / names[0]).shape[:2] == next(
        (i.camera.height, i.camera.width) for i in images if i.name == names[0]
    )
    for image in images:
        K = image.camera.calibration_matrix()
        world_to_camera = image.cam_from_world().matrix()
        seen = [
            point
            for point in model.points3D.values()
            if image.image_id in [e.image_id for e in point.track.elements]
        ]
        xyz, rgb = np.array([p.xyz for p in seen]), np.array([p.color for p in seen])
        projected = (xyz @ world_to_camera[:, :3].T + world_to_camera[:, 3]) @ K.T
        error, chance = colour_error(
            projected[:, :2] / projected[:, 2:], opened(folder / image.name), rgb
        )
        assert error < 2 and chance > 30, (image.name, error, chance)


def test_names_as_readers_in_python_take_them(written: Written) -> None:
    """3DGS and nerfstudio decode each byte of a name by itself, and split text lines at blanks.

    3DGS then looks for the last part of the name in images/.
    """
    with (written.place / "sparse/0/images.bin").open("rb") as file:
        binary = [_name_of_next_image(file) for _ in range(_unpack(file, "<Q"))]
    lines = (written.place / "sparse/0/images.txt").read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")][::2]
    assert all(len(row) == 10 for row in rows)
    assert [row[9] for row in rows] == binary
    for name in binary:
        assert (written.place / "images" / Path(name).name).is_file()
        assert name.split(".")[0] + Path(name).suffix == name
    assert len({name.split(".")[0].lower() for name in binary}) == len(binary)


def _name_of_next_image(file: BinaryIO) -> str:
    file.read(4 + 7 * 8 + 4)
    name = ""
    while (byte := file.read(1)) != b"\0":
        name += byte.decode("utf-8")
    file.read(24 * _unpack(file, "<Q"))
    return name


def _unpack(file: BinaryIO, form: str) -> int:
    return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])
