"""The border: what a model's heads say becomes a `Scene` in the project's conventions.

Each model's function reads the raw outputs of its stages and returns world-to-camera extrinsics,
intrinsics in model pixels, z-depth and points; see docs/conventions.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.bundle import Bundle
from covis.engines.options import Sparsity, parse_layers
from covis.runtime import geometry
from covis.runtime.images import Images
from covis.runtime.scene import Scene, SparsityReport

Array = NDArray[Any]
Values = Mapping[str, Array]


def decode(bundle: Bundle, images: Images, sparsity: Sparsity, values: Values) -> Scene:
    """The scene of one run.

    Args:
        bundle: names the model, and goes into the provenance.
        images: the photos as the model saw them.
        sparsity: the options of this run.
        values: outputs of the stages, by name.
    """
    manifest = bundle.manifest
    size = (manifest.pixel_rule.height, manifest.pixel_rule.width)
    fields = _DECODERS[manifest.model.name](values, size)
    valid = images.valid() & fields.pop("mask", True)
    return Scene(
        names=images.names,
        paths=images.paths,
        image_size=size,
        original_sizes=images.original_sizes,
        images=images.uint8,
        intrinsics_original=images.intrinsics_to_original(fields["intrinsics"]),
        valid=valid,
        similarity=values["similarity"],
        pair_level=values["pair_level"][0, 0],
        sparsity=_report(bundle, sparsity, values),
        provenance=_provenance(bundle, sparsity),
        **fields,
    )


def decode_vggt(values: Values, size: tuple[int, int]) -> dict[str, Any]:
    """VGGT says world-to-camera poses, fields of view and z-depth: our own conventions.

    `pose_enc` (M, 9) is translation (3), quaternion x, y, z, w (4, any length), vertical and
    horizontal field of view in radians. The principal point is the image centre. A field of view of
    0 gives an infinite focal length, which the writers leave out.
    """
    height, width = size
    pose = values["pose_enc"].astype(np.float64)
    rotation = geometry.quaternion_to_rotation(pose[:, 3:7])
    with np.errstate(divide="ignore"):
        focal_y = height / 2 / np.tan(pose[:, 7] / 2)
        focal_x = width / 2 / np.tan(pose[:, 8] / 2)
    return {
        "extrinsics": np.concatenate([rotation, pose[:, :3, None]], axis=2),
        "intrinsics": _pinhole(focal_x, focal_y, size),
        "depth": values["depth"],
        "depth_conf": values["depth_conf"],
        "points": values["world_points"],
        "points_conf": values["world_points_conf"],
    }


def _pinhole(focal_x: Array, focal_y: Array, size: tuple[int, int]) -> NDArray[np.float64]:
    intrinsics = np.zeros((len(focal_x), 3, 3))
    intrinsics[:, 0, 0], intrinsics[:, 1, 1], intrinsics[:, 2, 2] = focal_x, focal_y, 1.0
    intrinsics[:, 0, 2], intrinsics[:, 1, 2] = size[1] / 2, size[0] / 2
    return intrinsics


_DECODERS: dict[str, Callable[[Values, tuple[int, int]], dict[str, Any]]] = {
    "vggt": decode_vggt,
}


def _report(bundle: Bundle, sparsity: Sparsity, values: Values) -> SparsityReport:
    """Which share of the blocks was computed, from the level maps of this run."""
    level = values["pair_level"][0, 0]
    kept = int((level > 0).sum())
    layers: tuple[int, ...] = ()
    if sparsity.selector != "dense":
        layers = parse_layers(sparsity.layers, bundle.manifest.model.global_layers)
    if "kept_blocks" in values:
        shares = tuple(float(values["kept_blocks"][layer].mean()) for layer in layers)
    else:
        shares = (kept / level.size,) * len(layers)
    return SparsityReport(
        layers=layers, kept_blocks=shares, relative_blocks=kept / level.size, kept_pairs=kept
    )


def _provenance(bundle: Bundle, sparsity: Sparsity) -> dict[str, Any]:
    import onnxruntime

    import covis

    manifest = bundle.manifest
    return {
        "covis": covis.__version__,
        "onnxruntime": onnxruntime.__version__,
        "model": manifest.model.name,
        "weights": manifest.weights.model_dump(),
        "bundle": bundle.digest(),
        "sparsity": asdict(sparsity),
    }
