"""Score a trained model on held-out synthetic scenes, against baselines that ignore the images."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from covis.engines.errors import user_error
from covis.engines.system.atomic import write_file
from covis.evaluation.metrics.pose import THRESHOLDS, auc, pair_errors
from covis.export.models import load_model
from covis.export.models.cameras import pose_to_cameras
from covis.export.training import checkpoint
from covis.export.training.config import TrainingConfig
from covis.export.training.data import Batch, Pool, normalised, rendered
from covis.synthetic import HELD_OUT_SEEDS

# Images (B, M, 3, H, W) -> poses (B, M, 9), depth (B, M, H, W) or None.
Estimator = Callable[[Tensor], tuple[Tensor, Tensor | None]]


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
    """

    auc: dict[int, float]
    rotation: float
    translation: float
    abs_rel: float
    delta: float
    pairs: int

    def record(self) -> dict[str, object]:
        """Return the score as values that JSON supports."""
        return {
            **{f"auc@{t}": round(a, 4) for t, a in self.auc.items()},
            "median_rotation_deg": round(self.rotation, 2),
            "median_translation_deg": round(self.translation, 2),
            "depth_abs_rel": None if np.isnan(self.abs_rel) else round(self.abs_rel, 4),
            "depth_delta_1.25": None if np.isnan(self.delta) else round(self.delta, 4),
            "pairs": self.pairs,
        }


def held_out_batch(
    kind: str, scenes: int, views: int, size: int, shadows: bool, first: int = 0
) -> Batch:
    """Render held-out scenes of a kind.

    Args:
        kind: Family and path of the scenes, `family/path`.
        scenes: Number of scenes B.
        views: Number of views M of a scene, in random order.
        size: Side of the images in pixels.
        shadows: True if the scenes cast shadows.
        first: Offset in the range of held-out seeds.
    """
    if first + scenes > len(HELD_OUT_SEEDS):
        raise user_error("more scenes than held-out seeds", where=str(scenes))
    samples = []
    for n in range(first, first + scenes):
        seed = HELD_OUT_SEEDS[n]
        scene = rendered(kind, seed, 12, size, shadows=shadows)
        chosen = torch.from_numpy(np.random.default_rng([seed, 9]).permutation(12)[:views])
        samples.append({k: v[chosen] for k, v in scene.items()})
    stacked = {k: torch.stack([s[k] for s in samples]) for k in samples[0]}
    stacked["images"] = stacked["images"].float() / 255
    return normalised(stacked)


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
    return Score(
        {threshold: auc(worst, threshold) for threshold in THRESHOLDS},
        float(np.median(r)),
        float(np.median(t)),
        float(np.mean(relative)) if relative else float("nan"),
        float(np.mean(within)) if within else float("nan"),
        len(r),
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


def evaluate(
    run: Path,
    kinds: tuple[str, ...] = ("studio/orbit",),
    scenes: int = 32,
    views: int = 8,
    weights: Path | None = None,
) -> dict[str, dict[str, dict[str, object]]]:
    """Return scores by kind of scene and estimator, with the averaged weights of a run.

    Args:
        run: Folder of the run.
        kinds: Families and paths of the scenes, `family/path`.
        scenes: Number of held-out scenes of each kind.
        views: Number of views of each scene.
        weights: Safetensors file exported from that run, to evaluate instead of the checkpoint.
    """
    state = checkpoint.load(run)
    config = state.config
    model = load_model("vggt", config.model, weights or state.average)

    def estimate(images: Tensor) -> tuple[Tensor, Tensor | None]:
        outputs = model(images)
        return outputs["pose_enc"], outputs["depth"].squeeze(-1)

    estimators = {"covis-mini": estimate, **baselines(config, state.step)}
    table: dict[str, dict[str, dict[str, object]]] = {}
    for kind in kinds:
        batch = held_out_batch(kind, scenes, views, config.size, config.shadows)
        table[kind] = {name: score(e, batch).record() for name, e in estimators.items()}
    return table


def main(
    run: Path,
    kinds: tuple[str, ...] = ("studio/orbit",),
    scenes: int = 32,
    views: int = 8,
    weights: Path | None = None,
    out: Path | None = None,
) -> None:
    """Score a training run on held-out synthetic scenes.

    Args:
        run: Folder of the run.
        kinds: Families and paths of the scenes, family/path.
        scenes: Number of held-out scenes of each kind.
        views: Number of views of each scene.
        weights: Safetensors file to evaluate instead of the checkpoint.
        out: JSON file to write the scores to, in addition to printing them.
    """
    table = evaluate(run, kinds, scenes, views, weights)
    text = json.dumps(table, indent=1)
    print(text)
    if out is not None:
        write_file(out, text + "\n")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
