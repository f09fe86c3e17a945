"""Score a trained model on held-out synthetic scenes, against baselines.

Two baselines ignore the images: all cameras at identity, and the mean training pose. Two are the
model itself without its comparison of views, and tell how much its accuracy depends on it:

- `self only`: in every global layer a patch attends to the patches of its own view alone, as under
  the schedule `all:self`. Special tokens stay dense, which is the contract of the sparse op, so
  camera and register tokens still carry something from view to view.
- `each view alone`: every view is a sequence of its own, so nothing passes between views.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covis.engines.errors import user_error
from covis.engines.system.atomic import write_file
from covis.evaluation.metrics.pose import THRESHOLDS, auc, pair_errors
from covis.export.models import load_model
from covis.export.models.cameras import pose_to_cameras
from covis.export.models.multiview import MultiViewModel, patch_grid
from covis.export.ops import DENSE
from covis.export.selection.block_maps import PairSelection
from covis.export.training import checkpoint
from covis.export.training.config import TrainingConfig
from covis.export.training.data import Batch, Pool, normalised
from covis.export.training.rendering import Request, rendered
from covis.synthetic import HELD_OUT_SEEDS

# Images (B, M, 3, H, W) -> poses (B, M, 9), depth (B, M, H, W) or None.
Estimator = Callable[[Tensor], tuple[Tensor, Tensor | None]]

Draw = Literal["random", "neighbours", "spread"]
"""Views of a scene: any of its camera path; consecutive ones; evenly spaced ones, ends included."""

PATH_VIEWS = 12  # views along a camera path, of which the views of a scene are drawn


@dataclass(frozen=True)
class Score:
    """Camera and depth errors over some scenes.

    Attributes:
        auc: Area under the accuracy curve, 0 to 1, over all pairs, by threshold in degrees.
        rotation: Median relative rotation error in degrees.
        translation: Median angle between relative translations in degrees.
        abs_rel: Mean of |d - d*| / d* of depth, scaled by the median of each scene.
        delta: Share of pixels with max(d / d*, d* / d) < 1.25, scaled likewise; nan without depth.
        pairs: Number of pairs of views.
        scenes: Number of scenes.
        standard_error: Standard error over scenes of the AUC at 30 degrees, 0 to 1; nan for one.
    """

    auc: dict[int, float]
    rotation: float
    translation: float
    abs_rel: float
    delta: float
    pairs: int
    scenes: int
    standard_error: float

    def record(self) -> dict[str, object]:
        """Return the score as values that JSON supports."""
        return {
            **{f"auc@{t}": round(a, 4) for t, a in self.auc.items()},
            "auc@30_standard_error": None
            if np.isnan(self.standard_error)
            else round(self.standard_error, 4),
            "median_rotation_deg": round(self.rotation, 2),
            "median_translation_deg": round(self.translation, 2),
            "depth_abs_rel": None if np.isnan(self.abs_rel) else round(self.abs_rel, 4),
            "depth_delta_1.25": None if np.isnan(self.delta) else round(self.delta, 4),
            "pairs": self.pairs,
            "scenes": self.scenes,
        }


def held_out_batch(
    kind: str,
    scenes: int,
    views: int,
    size: int,
    shadows: bool,
    first: int = 0,
    draw: Draw = "random",
) -> Batch:
    """Render held-out scenes of a kind, in the way that training scenes are rendered.

    Args:
        kind: Family and path of the scenes, `family/path`.
        scenes: Number of scenes B.
        views: Number of views M of a scene, drawn from a camera path of twelve (or of M, where that
            is more), in random order.
        size: Side of the images in pixels.
        shadows: True if the scenes cast shadows.
        first: Offset in the range of held-out seeds.
        draw: Choice of the views along the path.

    Raises:
        CovisError: There are fewer held-out seeds, or the draw is unknown.
    """
    if first + scenes > len(HELD_OUT_SEEDS):
        raise user_error("more scenes than held-out seeds", where=str(scenes))
    samples = []
    for n in range(first, first + scenes):
        seed = HELD_OUT_SEEDS[n]
        path = max(views, PATH_VIEWS)
        scene = rendered(Request(kind, seed, path, size, shadows=shadows))
        chosen = torch.from_numpy(drawn_views(draw, path, views, seed))
        samples.append({k: v[chosen] for k, v in scene.items()})
    stacked = {k: torch.stack([s[k] for s in samples]) for k in samples[0]}
    stacked["images"] = stacked["images"].float() / 255
    return normalised(stacked)


def drawn_views(draw: Draw, path: int, views: int, seed: int) -> NDArray[np.int64]:
    """Return the indices (views,) that are drawn from a path, in random order.

    Args:
        draw: Choice of the views.
        path: Number of views along the path.
        views: Number of views to draw, at most `path`.
        seed: Seed of the scene.

    Raises:
        CovisError: The draw is unknown.
    """
    if draw not in get_args(Draw):
        raise user_error(
            "is no way to draw views", where=draw, hint=f"use one of {', '.join(get_args(Draw))}"
        )
    rng = np.random.default_rng([seed, 9])
    if draw == "random":
        return rng.permutation(path)[:views]
    if draw == "neighbours":
        return rng.permutation(views) + int(rng.integers(path - views + 1))
    return rng.permutation(np.round(np.linspace(0, path - 1, views)).astype(np.int64))


def score(estimate: Estimator, batch: Batch) -> Score:
    """Return the errors of an estimator over the scenes of a batch."""
    size = batch.images.shape[-1]
    rotation, translation, relative, within = [], [], [], []
    for b in range(len(batch.images)):
        with torch.no_grad():
            pose, depth = estimate(batch.images[b : b + 1])
        extrinsics, _ = pose_to_cameras(pose[0].double(), size, size)
        angles = pair_errors(extrinsics.cpu().numpy(), batch.extrinsics[b].double().cpu().numpy())
        rotation.append(angles[0])
        translation.append(angles[1])
        if depth is not None:
            true = batch.depth[b]
            aligned = depth[0] * (true.median() / depth[0].median())
            relative.append(float(((aligned - true).abs() / true).mean()))
            ratio = torch.maximum(aligned / true, true / aligned)
            within.append(float((ratio < 1.25).float().mean()))
    r, t = np.concatenate(rotation), np.concatenate(translation)
    worst = np.maximum(r, t)
    by_scene = [auc(np.maximum(*each), 30) for each in zip(rotation, translation, strict=True)]
    several = len(by_scene) > 1
    return Score(
        {threshold: auc(worst, threshold) for threshold in THRESHOLDS},
        float(np.median(r)),
        float(np.median(t)),
        float(np.mean(relative)) if relative else float("nan"),
        float(np.mean(within)) if within else float("nan"),
        len(r),
        len(by_scene),
        float(np.std(by_scene, ddof=1) / np.sqrt(len(by_scene))) if several else float("nan"),
    )


def baselines(config: TrainingConfig, step: int = 0) -> dict[str, Estimator]:
    """Return estimators that ignore the images: all cameras at identity; the mean training pose.

    Args:
        config: Configuration of the run whose training poses are averaged.
        step: First batch to average.
    """
    pool = Pool(config)
    poses = torch.cat([pool.batch(step + i).pose[:, 1:].flatten(0, 1) for i in range(8)])
    mean = poses.mean(dim=0)
    identity = torch.tensor([0.0, 0, 0, 0, 0, 0, 1]).to(mean)
    at_rest = torch.cat([identity, mean[7:]])

    def all_identity(images: Tensor) -> tuple[Tensor, Tensor | None]:
        return at_rest.expand(*images.shape[:2], 9), None

    def mean_pose(images: Tensor) -> tuple[Tensor, Tensor | None]:
        pose = mean.expand(*images.shape[:2], 9).clone()
        pose[:, 0] = at_rest
        return pose, None

    return {"identity": all_identity, "mean training pose": mean_pose}


def dense(model: MultiViewModel) -> Estimator:
    """Return the model itself as an estimator."""

    def estimate(images: Tensor) -> tuple[Tensor, Tensor | None]:
        return _poses_and_depth(model(images))

    return estimate


def self_only(model: MultiViewModel) -> Estimator:
    """Return the model whose patches attend to their own view alone; special tokens stay dense."""

    def estimate(images: Tensor) -> tuple[Tensor, Tensor | None]:
        views, (height, width) = images.shape[1], images.shape[-2:]
        rows, columns = patch_grid(height, width)
        own = PairSelection(
            DENSE * torch.eye(views, dtype=torch.int8, device=images.device)[None],
            torch.zeros(model.global_layers, dtype=torch.int64, device=images.device),
            rows * columns,
        )
        return _poses_and_depth(model(images, selection=own))

    return estimate


def each_view_alone(model: MultiViewModel) -> Estimator:
    """Return the VGGT that sees each view as a sequence of its own.

    View 0 has the special tokens of the reference view and the others have those of the other
    views, as in the whole sequence.
    """
    # Special tokens have a slot for the reference and one for all others. A sequence of one view
    # takes the first slot, so for the other views the slots change places.
    changed = {
        name: value.flip(1)
        for name, value in model.state_dict().items()
        if name in ("aggregator.camera_token", "aggregator.register_token")
    }

    def estimate(images: Tensor) -> tuple[Tensor, Tensor | None]:
        samples = len(images)
        others = images[:, 1:].flatten(0, 1)[:, None]
        first = _poses_and_depth(model(images[:, :1]))
        rest = _poses_and_depth(torch.func.functional_call(model, changed, (others,)))
        pose, depth = (
            torch.cat([a, torch.unflatten(b.squeeze(1), 0, (samples, -1))], dim=1)
            for a, b in zip(first, rest, strict=True)
        )
        return pose, depth

    return estimate


def _poses_and_depth(outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return pose encodings (B, M, 9) and depth (B, M, H, W) of a model's outputs."""
    return outputs["pose_enc"], outputs["depth"].squeeze(-1)


def evaluate(
    run: Path,
    kinds: tuple[str, ...] = ("studio/orbit",),
    scenes: int = 32,
    views: int = 8,
    weights: Path | None = None,
    draw: Draw = "random",
) -> dict[str, dict[str, dict[str, object]]]:
    """Return scores by kind of scene and estimator, with the averaged weights of a run.

    Args:
        run: Folder of the run.
        kinds: Families and paths of the scenes, `family/path`.
        scenes: Number of held-out scenes of each kind.
        views: Number of views of each scene.
        weights: Safetensors file exported from that run, to evaluate instead of the checkpoint.
        draw: Choice of the views along the camera path.
    """
    state = checkpoint.load(run)
    config = state.config
    model = load_model("vggt", config.model, weights or state.average)
    estimators = {
        "covis-mini": dense(model),
        "self only": self_only(model),
        "each view alone": each_view_alone(model),
        **baselines(config, state.step),
    }
    table: dict[str, dict[str, dict[str, object]]] = {}
    for kind in kinds:
        batch = held_out_batch(kind, scenes, views, config.size, config.shadows, draw=draw)
        table[kind] = {name: score(e, batch).record() for name, e in estimators.items()}
    return table


def main(
    run: Path,
    kinds: tuple[str, ...] = ("studio/orbit",),
    scenes: int = 32,
    views: int = 8,
    weights: Path | None = None,
    out: Path | None = None,
    draw: Draw = "random",
) -> None:
    """Score a training run on held-out synthetic scenes.

    Args:
        run: Folder of the run.
        kinds: Families and paths of the scenes, family/path.
        scenes: Number of held-out scenes of each kind.
        views: Number of views of each scene.
        weights: Safetensors file to evaluate instead of the checkpoint.
        out: JSON file to write the scores to, in addition to printing them.
        draw: Choice of the views along the camera path: random, neighbours (consecutive) or spread.
    """
    table = evaluate(run, kinds, scenes, views, weights, draw)
    text = json.dumps(table, indent=1)
    print(text)
    if out is not None:
        write_file(out, text + "\n")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
