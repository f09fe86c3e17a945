"""Decoding a run: notes and provenance of the cameras, beside what the bundle and photos give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from covis.engines.bundle.bundle import Bundle, open_bundle
from covis.engines.bundle.names import ANCHOR_RANK, PAIR_LEVELS, PROBE, SIMILARITY
from covis.engines.errors import CovisError
from covis.engines.options import Sparsity
from covis.runtime.photos.images import Images
from covis.runtime.photos.preprocess import transform_for
from covis.runtime.scene.from_heads import decode
from covis.runtime.scene.scene import Scene
from tests.engines.mini_bundle import edit
from tests.runtime.scene.test_decoders import SIZE, mapanything_values, vggt_values

PHOTO = 10 * SIZE[0], 10 * SIZE[1]


def bundle_of(model: str, folder: Path) -> Bundle:
    edit(folder, lambda m: m["model"].update(name=model, metric=model == "mapanything"))
    edit(folder, lambda m: m["pixel_rule"].update(kind="mapanything"))
    return open_bundle(folder)


def decoded(
    bundle: Bundle, values: dict[str, np.ndarray], masks: np.ndarray | None = None
) -> Scene:
    rule = bundle.manifest.pixel_rule
    images = Images(
        uint8=np.zeros((2, 3, *SIZE), np.uint8),
        names=("a.jpg", "b.jpg"),
        transforms=(transform_for(rule, *PHOTO),) * 2,
        original_sizes=np.array([PHOTO, PHOTO]),
        paths=(None, None),
        masks=masks,
    )
    pairs = {
        SIMILARITY: np.ones((2, 2), np.float32),
        PAIR_LEVELS: np.full((1, 2, 2), 2, np.int32),
        ANCHOR_RANK: np.full(2, 2, np.int32),
        PROBE: np.zeros(1, np.int64),
    }
    return decode(bundle, images, Sparsity(selector="dense"), {**values, **pairs})


def test_a_shifted_camera_reaches_the_original_photo(mini_bundle: Path) -> None:
    scene = decoded(bundle_of("mapanything", mini_bundle), mapanything_values((19.0, 4.5)))
    np.testing.assert_allclose(scene.intrinsics_original[:, :2, 2], [[190, 45]] * 2, atol=1e-3)
    np.testing.assert_allclose(scene.intrinsics_original[:, [0, 1], [0, 1]], 200, rtol=1e-5)
    assert scene.notes == ()
    fit = scene.provenance["pinhole_fit"]
    assert fit["principal_point"] == "fitted"
    assert fit["largest_pixels"] < 1e-3


def test_bent_rays_are_noted_by_name(mini_bundle: Path) -> None:
    values = mapanything_values((14.0, 7.0), focal=12.0)
    rays = values["ray_directions"][1]
    rays[..., 2] *= 1 + 2 * (rays[..., :2] ** 2).sum(axis=-1)
    scene = decoded(bundle_of("mapanything", mini_bundle), values)
    assert len(scene.notes) == 1
    assert "the rays of 1 of 2 views (b.jpg) are not those of a pinhole camera" in scene.notes[0]
    assert scene.provenance["pinhole_fit"]["largest_pixels"] > 0.2
    json.dumps(scene.provenance, allow_nan=False)


def test_directions_of_no_camera_are_valid_json(mini_bundle: Path) -> None:
    values = mapanything_values((14.0, 7.0))
    values["ray_directions"][0] *= -1
    scene = decoded(bundle_of("mapanything", mini_bundle), values)
    assert not scene.usable_cameras()[0]
    assert "point backwards" in scene.notes[0]
    assert scene.provenance["pinhole_fit"]["median_pixels"] is None
    json.dumps(scene.provenance, allow_nan=False)


def test_masks_of_photos_and_of_the_model_leave_pixels_out(mini_bundle: Path) -> None:
    values = mapanything_values((14.0, 7.0))
    values["non_ambiguous_mask_logits"][0, 3, 4] = -1.0
    values["non_ambiguous_mask_logits"][0, 3, 5] = np.nan
    masks = np.ones((2, *SIZE), bool)
    masks[1, 5:7] = False
    expected = masks.copy()
    expected[0, 3, 4:6] = False
    scene = decoded(bundle_of("mapanything", mini_bundle), values, masks)
    np.testing.assert_array_equal(scene.valid, expected)


def test_outputs_that_are_missing_are_named(mini_bundle: Path) -> None:
    bundle = bundle_of("mapanything", mini_bundle)
    with pytest.raises(CovisError, match="do not write what a scene of mapanything is made of"):
        decoded(bundle, vggt_values())


def test_vggt_has_no_fit(mini_bundle: Path) -> None:
    scene = decoded(bundle_of("vggt", mini_bundle), vggt_values())
    assert scene.notes == ()
    assert "pinhole_fit" not in scene.provenance
    assert scene.points is None
