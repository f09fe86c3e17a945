"""`depth/`: units, ranges and formats of depth images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import OpenEXR
import pytest
from PIL import Image

from covis.engines.errors import CovisError, ExitCode
from covis.runtime.photos.images import load_images
from covis.runtime.scene.writers import OutputOptions, check_output, write
from covis.runtime.scene.writers.depth import depth_unit
from tests.runtime.scene.globe import RULE, globe_scene, random_view
from tests.runtime.scene.random_scene import random_scene

DEPTH = OutputOptions(formats=("depth",))
EXR = OutputOptions(formats=("depth",), depth_format="exr")


@pytest.mark.parametrize(
    ("metric", "scale", "unit"),
    [
        (True, 1.0, 0.001),
        (True, 1e-3, 0.001),
        (True, 1e4, 0.001),  # a millimetre, whatever the depth
        (False, 1.0, 0.001),
        (False, 15.0, 0.001),  # 60 units fit into 16 bits
        (False, 20.0, 0.01),
        (False, 1e6, 100.0),
        (False, 0.05, 1e-4),
        (False, 1e-5, 1e-7),
    ],
)
def test_the_unit_fits_the_scene(metric: bool, scale: float, unit: float) -> None:
    scene = random_scene(metric=metric)
    scene = random_scene(metric=metric, depth=scene.depth * np.float32(scale))
    assert depth_unit(scene) == pytest.approx(unit)


def test_one_wild_depth_does_not_choose_the_unit(tmp_path: Path) -> None:
    depth = random_scene().depth.copy()
    depth[1, 2, 3] = 1e9
    depth[2, 0, :5] = (0, -1, np.nan, np.inf, 65.535)
    files, notes = write(random_scene(depth=depth), tmp_path / "out", DEPTH)
    assert notes[-1].startswith("depth images: 1 pixels are farther than 65.535 and are 0")
    stored = [np.asarray(Image.open(path)) for path in files[:3]]
    assert stored[1][2, 3] == 0 and stored[2][0, :5].tolist() == [0, 0, 0, 0, 65535]
    np.testing.assert_allclose(stored[0] * 0.001, depth[0], atol=0.0005001)
    assert json.loads((tmp_path / "out/scene.json").read_text())["depth"] == {
        "format": "png",
        "unit": 0.001,
    }


def test_depth_is_in_the_pixels_of_the_photo(tmp_path: Path) -> None:
    """Each pixel of the full image takes the depth of the model's pixel that it lies in."""
    view = random_view(333, 500, 4)
    images = load_images([view.photo()], RULE)
    scene = globe_scene([view], images)
    (path, _), _ = write(scene, tmp_path / "out", EXR)
    with OpenEXR.File(str(path)) as file:
        stored = file.channels()["Z"].pixels
    assert stored.dtype == np.float32 and stored.shape == (333, 500)
    v, u = np.nonzero(stored)
    x, y = np.floor(images.transforms[0].pixels_to_model(np.stack([u, v], 1) + 0.5)).T.astype(int)
    np.testing.assert_array_equal(stored[v, u], scene.depth[0, y, x])
    assert len(u) == stored.size


def test_pixels_outside_the_model_are_without_depth(tmp_path: Path) -> None:
    """VGGT's crop takes the middle of a tall photo; above and below there is no depth."""
    scene = random_scene(views=1, original_sizes=np.array([(300, 100)]), image_size=(28, 42))
    transform = np.diag([100 / 42, 100 / 42, 1.0])
    transform[1, 2] = 150 - 14 * 100 / 42
    photo = np.zeros((300, 100, 3), np.uint8)
    scene = random_scene(
        views=1,
        original_sizes=np.array([(300, 100)]),
        intrinsics_original=transform @ scene.intrinsics,
        sources=(photo,),
        depth=np.full((1, 28, 42), 2.0, np.float32),
        valid=np.ones((1, 28, 42), bool),
    )
    (path, _), _ = write(scene, tmp_path / "out", DEPTH)
    stored = np.asarray(Image.open(path))
    rows = np.nonzero(stored.any(axis=1))[0]
    assert stored.shape == (300, 100) and rows.min() == 117 and rows.max() == 182
    assert set(np.unique(stored)) == {0, 2000}


def test_without_openexr_it_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(
        CovisError, match=r"OpenEXR is not installed; pip install 'covis\[exr\]'"
    ) as e:
        check_output(tmp_path / "out", EXR)
    assert e.value.code == ExitCode.ENVIRONMENT
    check_output(tmp_path / "out", OutputOptions(formats=("ply",), depth_format="exr"))


def test_the_unit_stands_in_transforms(tmp_path: Path) -> None:
    options = OutputOptions(formats=("nerfstudio", "depth"))
    scene: Any = random_scene()
    write(random_scene(depth=scene.depth * 100), tmp_path / "out", options)
    record = json.loads((tmp_path / "out/transforms.json").read_text())
    assert record["depth_unit_scale_factor"] == 0.01
    stored = np.asarray(Image.open(tmp_path / "out" / record["frames"][1]["depth_file_path"]))
    np.testing.assert_allclose(stored * 0.01, scene.depth[1] * 100, atol=0.00501)
