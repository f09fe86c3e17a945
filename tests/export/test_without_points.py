"""A fine-tuned VGGT without a point head: exported, run, and written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import covis
from covis.engines.bundle.bundle import open_bundle
from covis.runtime.scene.writers import write
from tests.tiny_vggt import export_tiny_bundle, random_weights

Lines = list[str]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Lines]:
    folder = tmp_path_factory.mktemp("without_points")
    state = load_file(random_weights(folder))
    left = {f"module.{k}": v for k, v in state.items() if not k.startswith("point_head.")}
    save_file(left, folder / "fine-tuned.safetensors")
    lines: Lines = []
    weights = folder / "fine-tuned.safetensors"
    return export_tiny_bundle(folder, weights=weights, on_progress=lines.append), lines


def test_the_bundle_has_no_stage_for_points(
    exported: tuple[Path, Lines], tiny_bundle: Path
) -> None:
    bundle, lines = exported
    manifest, whole = (open_bundle(path).manifest for path in (bundle, tiny_bundle))
    names = [stage.name for stage in whole.stages]
    assert [stage.name for stage in manifest.stages] == [name for name in names if name != "points"]
    assert not (bundle / "points.onnx").exists()
    assert manifest.model.config["point_head"] is False
    assert "no point_head in the weights: the bundle has no stage points" in lines
    assert manifest.weights.licence.startswith("that of fine-tuned.safetensors, which covis does")


def test_its_scene_has_points_from_depth_alone(
    exported: tuple[Path, Lines], tiny_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    scene, whole = (covis.load(bundle)(photos) for bundle in (exported[0], tiny_bundle))
    assert scene.points is None and scene.points_conf is None and whole.points is not None
    assert scene.depth is not None and whole.depth is not None
    np.testing.assert_array_equal(scene.depth, whole.depth)
    np.testing.assert_array_equal(scene.extrinsics, whole.extrinsics)
    written = write(scene, tmp_path / "out")
    assert {"points.ply", "scene.npz"} <= {path.name for path in written.files}
