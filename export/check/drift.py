"""How far a narrow bundle is from float32, end to end, before the bundle is finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covis.engines.bundle.manifest import Drift, SceneDrift
from covis.engines.errors import numerics_error
from covis.export.check.rounded import run_rounded
from covis.export.check.verify import (
    VIEW_COUNTS,
    cannot_run,
    control_inputs,
    feed,
    helper,
    run_torch,
)
from covis.export.models.cameras import quaternion_to_matrix, rotation_from_nine
from covis.export.stage import StageModule
from covis.export.weights.page_cache import release_pages

Values = dict[str, Tensor]
# ONNX Runtime's CPU provider has float16 (it widens by itself) and float8 with float16 scales, but
# no bfloat16 arithmetic: those graphs run as a copy that rounds every result to bfloat16.
_NATIVE = "as it is"
_ROUNDED = "with its bfloat16 operators in float32, each result rounded to bfloat16"
_NO_KERNELS = {"bf16": "BFLOAT16"}

# Above these the graph is taken to be wrong, not narrow: root mean square of the differences over
# that of the values. Figures that were seen: docs/decisions/0004-precision.md.
LIMITS = {"fp16": 0.05, "bf16": 0.25, "fp8": 0.5}
# Levels of pairs and shares of blocks jump where a similarity crosses its threshold, and so does
# all that the pooled selector touches: on record, but neither judged nor passed on.
_CHOSEN = frozenset(["pair_level", "kept_blocks", "kept_mass"])
_CHOOSES = "aggregator_pooled"


def measure_drift(
    stages: Sequence[StageModule],
    folder: Path,
    image_size: tuple[int, int],
    precision: str,
    tell: Callable[[str], None] = lambda text: None,
    seed: int = 0,
) -> dict[str, Any]:
    """Run every graph on what the graphs before it wrote, and torch in float32 beside it.

    Block maps and other choices are taken from float32, so that what is compared is arithmetic.

    Args:
        stages: with float32 weights, in the order of the data flow.
        folder: holds the narrow graphs and the weights they point to.
        image_size: (H, W).
        precision: of the graphs.
        tell: told of each stage in words.
        seed: of the check's images.

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
                try:
                    path = folder / f"{stage.name}.onnx"
                    got = pool.submit(run_rounded, path, own, dtype).result()
                except Exception as error:  # ONNX Runtime's types, and the process dying
                    raise cannot_run(stage.name, error) from error
                for name, expected in reference.items():
                    drifts.append(_compare(stage.name, views, name, expected, got[name], precision))
                if stage.name == _CHOOSES:
                    continue
                values.update(reference)
                narrow[views].update({n: torch.from_numpy(a) for n, a in got.items()})
                narrow[views].update({n: reference[n] for n in _CHOSEN & reference.keys()})
            tell(f"measured the drift of {stage.name} from float32")
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
    turned = [_rotations(values) for values in (exact, narrow)]
    depths = [_depth(values) for values in (exact, narrow)]
    degrees = relative = None
    if turned[0] is not None and turned[1] is not None:
        degrees = _largest_angle(turned[0], turned[1])
    if depths[0] is not None and depths[1] is not None:
        relative = float(((depths[1] - depths[0]).abs() / depths[0].abs()).mean())
    return SceneDrift(views=views, pose_degrees=degrees, depth_relative=relative)


def _rotations(values: Mapping[str, Tensor]) -> Tensor | None:
    """(M, 3, 3) of the cameras, whichever way the model says them."""
    if "pose_enc" in values:
        return quaternion_to_matrix(values["pose_enc"][..., 3:7].double())
    if "cam_quats" in values:
        return quaternion_to_matrix(values["cam_quats"].double())
    if "rotation9" in values:
        return rotation_from_nine(values["rotation9"].double())
    return None


def _depth(values: Mapping[str, Tensor]) -> Tensor | None:
    """(M, H, W), or with a last axis of one: depth, or the distance along the ray."""
    for name in ("depth", "depth_along_ray"):
        if name in values:
            return values[name].double()
    return values["local_points"][..., 2].double() if "local_points" in values else None


def _largest_angle(first: Tensor, second: Tensor) -> float:
    """In degrees; from the chord, since the cosine of a small angle is 1."""
    chord = (first - second).flatten(-2).norm(dim=-1) / 8**0.5  # |R - S|_F = 2 sqrt 2 sin(a / 2)
    return float(torch.rad2deg(2 * torch.asin(chord.clamp(max=1.0))).max())
