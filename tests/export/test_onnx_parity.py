"""Every recorded case of the originals, through the exported graphs in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from covis.runtime.scene import from_heads as decode
from tests.export.models.parity import recorded_model
from tests.export.onnx_chain import Chain, Values, controls, kernel_or_function
from tests.golden_data import golden, golden_json, tolerance

CONFIGS = ["vggt_a1", "vggt_a2", "pi3_a1", "pi3_a2", "mapanything_a1", "mapanything_a2"]
UNUSED = ("aggregator_pooled",)


def published(model: str, values: Values, size: tuple[int, int]) -> Values:
    """Return the stages' outputs under the names and shapes of the record, one scene, no batch."""
    if model == "vggt":
        scene = decode.decode_vggt(values, size)
        return {
            "pose_enc": values["pose_enc"],
            "depth": values["depth"][..., None],
            "depth_conf": values["depth_conf"],
            "world_points": values["world_points"],
            "world_points_conf": values["world_points_conf"],
            "extrinsic": scene["extrinsics"],
            "intrinsic": scene["intrinsics"],
        }
    if model == "pi3":
        scene = decode.decode_pi3(values, size)
        return {
            "local_points": values["local_points"],
            "conf": values["conf"],
            "points": scene["points"],
            "camera_poses": _camera_to_world(scene),
        }
    scene = decode.decode_mapanything(values, size)
    scale = values["metric_scaling_factor"]
    return {
        "pts3d": scene["points"],
        "pts3d_cam": values["ray_directions"] * values["depth_along_ray"],
        "ray_directions": values["ray_directions"],
        "depth_along_ray": values["depth_along_ray"],
        "cam_trans": values["cam_trans"],
        "cam_quats": values["cam_quats"],
        "metric_scaling_factor": np.broadcast_to(scale, (len(values["cam_trans"]), 1)),
        "conf": values["conf"],
        "non_ambiguous_mask_logits": values["non_ambiguous_mask_logits"],
    }


def _camera_to_world(scene: dict[str, Any]) -> NDArray[np.float64]:
    pose = decode.geometry.invert_rigid(scene["extrinsics"])
    bottom = np.broadcast_to([0.0, 0.0, 0.0, 1.0], (len(pose), 1, 4))
    return np.concatenate([pose, bottom], axis=1)


@pytest.mark.parametrize("config", CONFIGS)
@kernel_or_function
def test_recorded_cases(config: str, kernel: bool, chains: Any) -> None:
    name = config.split("_", maxsplit=1)[0]
    for case in golden_json(f"{config}.json")["cases"]:
        tensors = load_file(golden(case["file"]))
        height, width = tensors["images"].shape[-2:]
        chain, model = chains(name, config, height, width)
        for scene, images in enumerate(tensors["images"]):
            patches = height // 14 * (width // 14)
            inputs = controls(model, len(images), patches)
            values = published(name, chain.run(images, inputs, kernel), (height, width))
            recorded = {key.removeprefix("out.") for key in tensors if key.startswith("out.")}
            # The mask is judged by its logits; where a field of view is 0 no intrinsics are kept.
            assert recorded - {"non_ambiguous_mask"} <= values.keys()
            for output in recorded & values.keys():
                value = values[output]
                whole = tensors[f"out.{output}"]
                reference = whole[scene]
                assert value.shape == reference.shape, output
                # The noise was recorded over the batch, so the largest value is taken over it too.
                noise = case["max_abs_diff_fp32_vs_fp64"][output]
                allowed = tolerance(noise, float(np.abs(whole.astype(np.float64)).max()))
                difference = float(np.abs(value.astype(np.float64) - reference).max())
                assert difference <= allowed, f"{case['file']} {output}: {difference:.3g}"


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Export each model and size once for both ways of running."""
    exported: dict[tuple[str, int, int], Any] = {}

    def make(name: str, config: str, height: int, width: int) -> Any:
        key = (config, height, width)
        if key not in exported:
            folder: Path = tmp_path_factory.mktemp("chain")
            model = recorded_model(name, config)
            weights = golden(golden_json(f"{config}.json")["weights"])
            exported[key] = Chain(folder, model, weights, height, width, UNUSED), model
        return exported[key]

    return make


@pytest.mark.parametrize("mode", range(3))
@kernel_or_function
def test_recorded_sparse_runs_of_vggt(mode: int, kernel: bool, sparse_chain: Any) -> None:
    """The original's block-sparse VGGT: ratio, ratio with mass, ratio in Hilbert order."""
    from covis.engines.bundle.patch_order import patch_order

    chain, model = sparse_chain
    record = golden_json("sparse_e2e_vggt_a1.json")
    tensors = load_file(golden(record["file"]))
    images = tensors["images"][0]
    options = record["modes"][mode]
    rows, columns = images.shape[-2] // 14, images.shape[-1] // 14
    order = patch_order("hilbert" if options.get("use_hilbert") else "raster", rows, columns)
    depth = model.global_layers
    inputs = controls(
        model,
        len(images),
        rows * columns,
        keep_ratio=np.full(depth, 1 - options["sparse_ratio"], np.float32),
        cdf=np.full(depth, options.get("cdf_threshold", 0.0), np.float32),
        patch_order=order,
    )
    values = published("vggt", chain.run(images, inputs, kernel), images.shape[-2:])
    for output in ("pose_enc", "depth", "depth_conf"):
        reference = tensors[f"mode{mode}.out.{output}"][0]
        difference = float(np.abs(values[output].astype(np.float64) - reference).max())
        # The rule of the record: no noise was measured for these runs.
        assert difference <= 1e-5 * float(np.abs(reference).max()), f"{output}: {difference:.3g}"


@pytest.fixture(scope="module")
def sparse_chain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """VGGT with BlockSelect in every global layer, at the size of the recorded sparse runs."""
    model = recorded_model("vggt", "vggt_a1")
    height, width = golden_json("sparse_e2e_vggt_a1.json")["images"][-2:]
    weights = golden("vggt_a1.weights.safetensors")
    folder = tmp_path_factory.mktemp("sparse")
    return Chain(folder, model, weights, height, width, without=("aggregator",)), model
