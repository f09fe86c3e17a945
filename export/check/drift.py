"""Drift of a narrow bundle from float32, end to end, before the bundle is finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covis.engines.bundle.manifest import Drift, SceneDrift
from covis.engines.errors import numerics_error
from covis.evaluation.metrics.drift import drift
from covis.export.check.rounded import run_rounded
from covis.export.check.verify import (
    VIEW_COUNTS,
    control_inputs,
    feed,
    helper,
    run_in,
    run_torch,
)
from covis.export.models.cameras import quaternion_to_matrix, rotation_from_nine
from covis.export.stage import OnProgress, StageModule
from covis.export.weights.page_cache import release_pages

Values = dict[str, Tensor]
# ONNX Runtime's CPU provider supports float16 (it widens by itself) and float8 with float16 scales.
# It has no bfloat16 arithmetic: such graphs run as a copy that rounds every result to bfloat16.
_NATIVE = "as it is"
_ROUNDED = "with its bfloat16 operators in float32, each result rounded to bfloat16"
_NO_KERNELS = {"bf16": "BFLOAT16"}

# Largest root mean square of the differences over that of the values. A graph above it is treated
# as wrong instead of imprecise. Measured values are in docs/decisions/0004-precision.md.
LIMITS = {"fp16": 0.05, "bf16": 0.25, "fp8": 0.5}
# Levels of pairs and shares of blocks jump where a similarity crosses its threshold, and so do all
# results of the pooled selector. They are recorded, but neither judged nor passed to later stages.
_CHOSEN = frozenset(["anchor_rank", "pair_levels", "kept_blocks", "kept_mass"])
_CHOOSES = "aggregator_pooled"


def measure_drift(
    stages: Sequence[StageModule],
    folder: Path,
    image_size: tuple[int, int],
    precision: str,
    on_progress: OnProgress = lambda text: None,
    seed: int = 0,
) -> dict[str, Any]:
    """Run every graph on the results of the earlier graphs, and torch in float32 beside it.

    Block maps and other choices are taken from float32, so that the comparison covers arithmetic
    only.

    Args:
        stages: Stages with float32 weights, in the order of the data flow.
        folder: Folder with the narrow graphs and the weights that they refer to.
        image_size: Height and width of the images in pixels.
        precision: Precision of the graphs: "fp16", "bf16" or "fp8".
        on_progress: Called with one line of text after each stage.
        seed: Seed of the test images.

    Returns:
        `drift`, `scene` and `ran_as` of the manifest's `Precision`.

    Raises:
        CovisError: a graph cannot be run, or its outputs are not finite or far off (exit code 4).
    """
    dtype = _NO_KERNELS.get(precision)
    drifts: list[Drift] = []
    with helper() as pool, torch.inference_mode():
        exact = {n: control_inputs(n, image_size, seed) for n in VIEW_COUNTS}
        narrow = {n: dict(values) for n, values in exact.items()}
        for stage in stages:
            for views, values in exact.items():
                reference = run_torch(stage, {p.name: feed(p, values, stage) for p in stage.inputs})
                release_pages(stage.module.parameters())
                own = {p.name: feed(p, narrow[views], stage).numpy() for p in stage.inputs}
                graph = folder / f"{stage.name}.onnx"
                got = run_in(pool, stage.name, run_rounded, graph, own, dtype)
                for name, expected in reference.items():
                    drifts.append(_compare(stage.name, views, name, expected, got[name], precision))
                if stage.name == _CHOOSES:
                    continue
                values.update(reference)
                narrow[views].update({n: torch.from_numpy(a) for n, a in got.items()})
                narrow[views].update({n: reference[n] for n in _CHOSEN & reference.keys()})
            on_progress(f"measured the drift of {stage.name} from float32")
    scenes = tuple(_scene(views, exact[views], narrow[views]) for views in exact)
    return {
        "drift": tuple(drifts),
        "scene": scenes,
        "ran_as": _NATIVE if dtype is None else _ROUNDED,
    }


def _compare(
    stage: str, views: int, output: str, expected: Tensor, got: NDArray[Any], precision: str
) -> Drift:
    if not np.isfinite(got).all():
        raise numerics_error(
            f"{output} is not finite in {precision}, at {views} views",
            where=f"stage {stage}",
            hint="use --precision bf16, or keep a part wide with --keep-fp32",
        )
    exact = expected.double().numpy()
    difference = got.astype(np.float64) - exact
    largest, size = np.abs(exact).max(initial=0.0), float(np.linalg.norm(exact))
    relative = float(np.linalg.norm(difference)) / size if size > 0 else 0.0
    if relative > LIMITS[precision] and output not in _CHOSEN and stage != _CHOOSES:
        raise numerics_error(
            f"{output} is {relative:.2g} of its size away from float32 at {views} views, "
            f"{LIMITS[precision]} allowed",
            where=f"stage {stage}",
            hint="use a wider --precision, or keep a part wide with --keep-fp32",
        )
    worst = float(np.abs(difference).max(initial=0.0))
    return Drift(
        stage=stage,
        views=views,
        output=output,
        max_abs=worst,
        max_rel=worst / float(largest) if largest > 0 else 0.0,
        rms_rel=relative,
    )


def _scene(views: int, exact: Values, narrow: Values) -> SceneDrift:
    """Return the drift of the scene; None for what the stages do not write."""
    has_cameras, has_depth = _extrinsics(exact) is not None, _depth(exact) is not None
    still, flat = np.tile(np.eye(3, 4), (views, 1, 1)), np.ones((views, 1, 1))

    def cameras(values: Values) -> NDArray[np.float64]:
        found = _extrinsics(values)
        return still if found is None else found

    def depth(values: Values) -> NDArray[np.float64]:
        found = _depth(values)
        return flat if found is None else found

    found = drift(
        cameras(narrow),
        depth(narrow),
        reference_extrinsics=cameras(exact),
        reference_depth=depth(exact),
        metric="metric_scaling_factor" in exact,
    )
    return SceneDrift(
        views=views,
        pose_degrees=found.pose_deg if has_cameras else None,
        depth_relative=found.depth_rel if has_depth else None,
    )


def _extrinsics(values: Mapping[str, Tensor]) -> NDArray[np.float64] | None:
    """Return the world-to-camera poses (M, 3, 4), from the outputs of any model's camera head."""
    if "pose_enc" in values:  # world to camera
        pose = values["pose_enc"].double()
        rotation, shift = quaternion_to_matrix(pose[:, 3:7]), pose[:, :3, None]
    elif "cam_quats" in values:  # camera to world
        rotation = quaternion_to_matrix(values["cam_quats"].double()).mT
        shift = -rotation @ values["cam_trans"].double()[:, :, None]
    elif "rotation9" in values:  # camera to world
        rotation = rotation_from_nine(values["rotation9"].double()).mT
        shift = -rotation @ values["translation"].double()[:, :, None]
    else:
        return None
    poses: NDArray[np.float64] = torch.cat([rotation, shift], dim=2).numpy()
    return poses


def _depth(values: Mapping[str, Tensor]) -> NDArray[np.float64] | None:
    """Return the z-depth (M, H, W), from the outputs of any model's depth or point head."""
    if "depth" in values:
        depth = values["depth"]
    elif "depth_along_ray" in values:
        depth = values["ray_directions"][..., 2].double() * values["depth_along_ray"][..., 0]
    elif "local_points" in values:
        depth = values["local_points"][..., 2]
    else:
        return None
    array: NDArray[np.float64] = depth.double().numpy()
    return array
