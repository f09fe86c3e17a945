"""Conventions: the drawing matches the code, and a model's output obeys them to the end."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from safetensors.numpy import load_file

from covis.engines.bundle.pixel_rule import PixelRule
from covis.engines.errors import CovisError
from covis.runtime.photos.images import load_images
from covis.runtime.photos.preprocess import original_intrinsics, valid_pixels
from covis.runtime.scene import geometry
from covis.runtime.scene.from_heads import decode_vggt
from covis.runtime.scene.scene import Scene
from covis.runtime.scene.writers import OutputOptions, write
from tests.golden_data import golden
from tests.places import ROOT


def test_picture_is_up_to_date() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "reference" / "conventions_picture.py"))
    assert script["draw"]() == (ROOT / "docs" / "reference" / "conventions.svg").read_text(
        encoding="utf-8"
    ), "run python docs/reference/conventions_picture.py"


@pytest.mark.parametrize(("case", "cameras"), [(0, 0), (1, 2)])
def test_vggt_points_reproject_onto_their_own_pixels(
    tmp_path: Path, case: int, cameras: int
) -> None:
    """From the original's own numbers to a COLMAP model that COLMAP's code reprojects.

    The record's weights are random: the other views' fields of view are over 180 degrees.
    """
    record = load_file(golden(f"vggt_a1.case{case}.safetensors"))
    values = {name[4:]: array[0] for name, array in record.items() if name.startswith("out.")}
    M, H, W = values["depth"].shape[:3]
    values["depth"] = values["depth"].reshape(M, H, W)
    photos = [np.full((2 * H + 31, 2 * W + 5, 3), 90, np.uint8)] * M
    images = load_images(photos, PixelRule("vggt_crop", H, W))
    decoded = decode_vggt(values, (H, W))
    scene = Scene(
        names=images.names,
        image_size=(H, W),
        original_sizes=images.original_sizes,
        intrinsics_original=original_intrinsics(images.transforms, decoded["intrinsics"]),
        valid=valid_pixels(images.transforms),
        **decoded,
    )
    usable = scene.usable_cameras()
    np.testing.assert_array_equal(usable, (values["pose_enc"][:, 7:] < np.pi).all(axis=1))
    assert usable.sum() == cameras
    np.testing.assert_allclose(scene.extrinsics, values["extrinsic"], atol=1e-5)
    np.testing.assert_allclose(scene.intrinsics, values["intrinsic"], rtol=1e-5)
    grid = geometry.pixel_centers(H, W).reshape(-1, 2)
    uv, _ = geometry.project(
        scene.points_from_depth().reshape(M, -1, 3), scene.intrinsics, scene.extrinsics
    )
    assert np.isnan(uv[~usable]).all()
    # Points in float32: up to half a unit in the last place, times the focal length.
    assert np.abs(uv - grid)[usable].max(initial=0.0) < 1e-3
    options = OutputOptions(formats=("colmap",), conf_percentile=0)
    scene = replace(scene, sources=images.sources)
    if not cameras:
        with pytest.raises(CovisError, match="no view has a finite camera"):
            write(scene, tmp_path / "out", options)
        return
    write(scene, tmp_path / "out", options)
    model = pycolmap.Reconstruction(tmp_path / "out/sparse/0")
    assert model.num_points3D() == scene.valid[usable].sum()
    worst = 0.0
    for image in model.images.values():
        transform = images.transforms[image.image_id - 1]
        for seen in image.points2D:
            u, v = transform.pixels_to_model(seen.xy) - 0.5
            assert abs(u - round(u)) < 1e-6 and abs(v - round(v)) < 1e-6
            projected = image.project_point(model.points3D[seen.point3D_id].xyz)
            worst = max(worst, float(np.abs(projected - seen.xy).max()))
    assert worst < 1e-3
