"""Convert raw model outputs to a `Scene` (OpenCV cameras, z-depth).

Each model's function reads the raw outputs of its stages and returns world-to-camera extrinsics,
intrinsics in model pixels, z-depth and points; see docs/reference/conventions.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.bundle.bundle import Bundle
from covis.engines.bundle.names import (
    ANCHOR_RANK,
    KEPT_BLOCKS,
    KEPT_MASS,
    PAIR_LEVELS,
    PROBE,
    SIMILARITY,
)
from covis.engines.errors import user_error
from covis.engines.options import Sparsity
from covis.engines.pair_rules import PairRules, pair_rules
from covis.engines.regime import format_schedule
from covis.runtime.photos.images import Images
from covis.runtime.photos.preprocess import original_intrinsics, valid_pixels
from covis.runtime.scene import geometry
from covis.runtime.scene.pinhole import PinholeFit, fit_pinhole, pinhole_matrices, pinhole_note
from covis.runtime.scene.scene import Scene, SparsityReport

Array = NDArray[Any]
Values = Mapping[str, Array]
_UNIQUE = (
    1e-6  # of the two smaller singular values' sum, which is 0 where rotations are equally near
)


def decode(
    bundle: Bundle, images: Images, sparsity: Sparsity, values: Values, why: str = ""
) -> Scene:
    """Build the scene of one run.

    Args:
        bundle: Bundle that was run; it determines the model and the provenance.
        images: Photos in the model's pixels.
        sparsity: Selector options of the run.
        values: Outputs of the stages, by name.
        why: Reason for which the selector was chosen, for the report; "" if the user chose it.

    Raises:
        CovisError: An output that the model's scene requires is missing or has another shape.
    """
    try:
        return _scene(bundle, images, sparsity, values, why)
    except (KeyError, IndexError, ValueError) as error:
        raise user_error(
            f"its stages do not write what a scene of {bundle.manifest.model.name} is made of "
            f"({type(error).__name__}: {error})",
            where=bundle.path,
            hint="export the bundle again",
        ) from error


def _scene(bundle: Bundle, images: Images, sparsity: Sparsity, values: Values, why: str) -> Scene:
    manifest = bundle.manifest
    model = manifest.model
    rules = pair_rules(sparsity, model.global_layers, len(images), model.reference_view)
    size = (manifest.pixel_rule.height, manifest.pixel_rule.width)
    fields = _DECODERS[manifest.model.name](values, size)
    valid = valid_pixels(images.transforms) & fields.pop("mask", True)
    fit = fields.pop("fit", None)
    note = None if fit is None else pinhole_note(images.names, fit, images.transforms)
    if images.masks is not None:
        valid &= images.masks
    with np.errstate(invalid="ignore"):  # an infinite focal length stays infinite
        original = original_intrinsics(images.transforms, fields["intrinsics"])
    return Scene(
        names=images.names,
        paths=images.paths,
        sources=images.sources or None,
        stamps=images.stamps or None,
        mask_paths=images.mask_paths or None,
        image_size=size,
        original_sizes=images.original_sizes,
        images=images.uint8,
        intrinsics_original=original,
        valid=valid,
        similarity=values[SIMILARITY],
        pair_levels=values[PAIR_LEVELS].astype(np.int8),
        layer_map=rules.layer_map,
        anchors=_anchors(values, rules),
        sparsity=_report(bundle, sparsity, values, rules, why),
        metric=manifest.model.metric,
        provenance=_provenance(bundle, sparsity, fit),
        notes=(note,) if note else (),
        **fields,
    )


def decode_vggt(values: Values, size: tuple[int, int]) -> dict[str, Any]:
    """Decode VGGT, whose outputs are world-to-camera poses, fields of view and z-depth.

    `pose_enc` (M, 9) is translation (3), quaternion x, y, z, w (4, any length), vertical and
    horizontal field of view in radians. The principal point is the image centre. A field of view of
    0 gives an infinite focal length and one of over 180 degrees a negative one; the writers leave
    out such views. A bundle without a point head gives no points.
    """
    height, width = size
    pose = values["pose_enc"].astype(np.float64)
    rotation = geometry.quaternion_to_rotation(pose[:, 3:7])
    # Without the limit, the tangent's next period would give a field of view of 400 degrees a
    # positive focal length again.
    half = np.minimum(pose[:, 7:9], 2 * np.pi) / 2
    with np.errstate(divide="ignore"):
        focal_y, focal_x = height / 2 / np.tan(half[:, 0]), width / 2 / np.tan(half[:, 1])
    return {
        "extrinsics": np.concatenate([rotation, pose[:, :3, None]], axis=2),
        "intrinsics": pinhole_matrices(
            np.stack([focal_x, focal_y], axis=-1), (width / 2, height / 2)
        ),
        "depth": values["depth"],
        "depth_conf": values["depth_conf"],
        "points": values.get("world_points"),
        "points_conf": values.get("world_points_conf"),
    }


def decode_pi3(values: Values, size: tuple[int, int]) -> dict[str, Any]:
    """Decode pi^3, whose outputs are camera-to-world poses and points in each camera's frame.

    `rotation9` (M, 9) is a 3 x 3 matrix by rows: its rows are scaled to unit length, then the
    nearest rotation is taken. z of the local points is the depth. `conf` is a logit; it becomes a
    probability. The model has no intrinsics: focal lengths are fitted to the local points, weighted
    by confidence. The principal point stays in the middle, where the model's own example puts
    it, so that the cameras agree with that.
    """
    local = values["local_points"]
    rotation = nearest_rotation(values["rotation9"].reshape(-1, 3, 3))
    pose = np.concatenate([rotation, values["translation"].astype(np.float64)[:, :, None]], axis=2)
    conf = np.exp(-np.logaddexp(0.0, -values["conf"][..., 0].astype(np.float64)))
    fit = fit_pinhole(local, size, conf, subject="points", centred=True)
    return {
        "extrinsics": geometry.invert_rigid(pose),
        "intrinsics": fit.intrinsics,
        "fit": fit,
        "depth": local[..., 2],
        "depth_conf": conf.astype(np.float32),
        "points": _to_world(pose, local),
        "points_conf": conf.astype(np.float32),
    }


def decode_mapanything(values: Values, size: tuple[int, int]) -> dict[str, Any]:
    """Decode MapAnything: camera-to-world poses, unit rays, and metric depth along each ray.

    z-depth is the ray's z times the depth along it. Focal lengths and principal points are fitted
    to the rays. Pixels with a negative mask logit, where the model regards the surface as ambiguous
    (sky, glass), are not valid.
    """
    rays, along = values["ray_directions"], values["depth_along_ray"]
    local = rays * along
    rotation = geometry.quaternion_to_rotation(values["cam_quats"].astype(np.float64))
    pose = np.concatenate([rotation, values["cam_trans"].astype(np.float64)[:, :, None]], axis=2)
    fit = fit_pinhole(rays, size)
    return {
        "extrinsics": geometry.invert_rigid(pose),
        "intrinsics": fit.intrinsics,
        "fit": fit,
        "depth": local[..., 2],
        "depth_conf": values["conf"],
        "points": _to_world(pose, local),
        "points_conf": values["conf"],
        "mask": values["non_ambiguous_mask_logits"] > 0,
    }


def nearest_rotation(matrices: Array) -> NDArray[np.float64]:
    """Scale rows to unit length, then take the nearest rotation (Frobenius norm); (M, 3, 3).

    R = U diag(1, 1, det(U V^T)) V^T of the singular value decomposition U S V^T (Umeyama 1991).
    Where several rotations are equally near (zero or parallel rows, mirrored axes), the result is
    NaN, so that no arbitrary camera is passed off as the model's.
    """
    rows = matrices.astype(np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
    u, s, vt = np.linalg.svd(rows)
    mirrored = np.linalg.det(u @ vt)
    u[..., :, 2] *= mirrored[..., None]
    unique = s[..., 1] + mirrored * s[..., 2] > _UNIQUE
    rotation: NDArray[np.float64] = np.where(unique[..., None, None], u @ vt, np.nan)
    return rotation


def _to_world(pose: Array, local: Array) -> NDArray[np.float32]:
    """Transform points (M, H, W, 3) from each camera's frame to the world."""
    turned = np.einsum("mij,mhwj->mhwi", pose[:, :, :3], local)
    world: NDArray[np.float32] = (turned + pose[:, None, None, :, 3]).astype(np.float32)
    return world


_DECODERS: dict[str, Callable[[Values, tuple[int, int]], dict[str, Any]]] = {
    "vggt": decode_vggt,
    "pi3": decode_pi3,
    "mapanything": decode_mapanything,
}


def _report(
    bundle: Bundle, sparsity: Sparsity, values: Values, rules: PairRules, why: str
) -> SparsityReport:
    """Report the share of attention computed, from the level maps of the run."""
    kept = values[PAIR_LEVELS] > 0
    layers = list(rules.sparse_layers)
    maps = rules.layer_map[layers]
    by_layer = kept.mean(axis=(1, 2))[maps]
    heads = bundle.manifest.model.global_heads
    shares = np.repeat(by_layer[:, None], heads, axis=1)
    if KEPT_BLOCKS in values:
        shares = values[KEPT_BLOCKS][layers]
    depth = max(len(rules.layer_map), 1)
    return SparsityReport(
        selector=sparsity.selector,
        reason=why,
        schedule=format_schedule(rules.regimes),
        layers=tuple(layers),
        kept_blocks=shares.astype(np.float32),
        relative_blocks=float(by_layer.mean()) if layers else 1.0,
        kept_pairs=int(kept[maps].any(axis=0).sum()) if layers else kept[0].size,
        attention_work=1.0 - float((1.0 - shares.mean(axis=1)).sum()) / depth if layers else 1.0,
        attention_mass=values[KEPT_MASS][layers] if values[PROBE].size > 1 else None,
    )


def _anchors(values: Values, rules: PairRules) -> NDArray[np.int64] | None:
    """Return the anchors in the order in which they were chosen; None for a run without."""
    rank, most = values[ANCHOR_RANK], int(np.max(rules.anchors))
    if not most:
        return None
    order: NDArray[np.int64] = np.argsort(rank, kind="stable").astype(np.int64)
    return order[: int((rank < most).sum())]


def _provenance(bundle: Bundle, sparsity: Sparsity, fit: PinholeFit | None) -> dict[str, Any]:
    from covis.engines.version import __version__

    manifest = bundle.manifest
    facts = {
        "covis": __version__,
        "model": manifest.model.name,
        "weights": manifest.weights.model_dump(),
        "bundle": bundle.digest(),
        "sparsity": asdict(sparsity),
    }
    return facts if fit is None else {**facts, "pinhole_fit": fit.summary()}
