"""Loss of camera accuracy by low precision, and by skipping, on the same pairs.

    python benchmarks/precision_accuracy.py --bundle covis/assets/demo

Of a VGGT, in torch, all global layers alike:

- `fp32`, `fp16`: dense, the whole model in that type.
- `fp8`: every pair at level 1, which is emulated as float8 e4m3 with the scales of the Hopper
  kernels (`covis.export.ops.fp8`); special tokens stay exact.
- `regime 2`: the selected pairs in full, all others at level 1.
- `skip`: the selected pairs in full, the others not at all.

The selected pairs are the most similar ones, as many as each share allows. Weights are those of a
bundle, or of a safetensors file that contains its configuration.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from covis.engines.bundle.bundle import open_bundle
from covis.evaluation.accuracy.scoring import Record, score_pose
from covis.evaluation.accuracy.summary import aggregate
from covis.evaluation.datasets.synthetic import SyntheticScenes
from covis.evaluation.datasets.truth import GroundTruth, sample_views
from covis.evaluation.metrics.pose import THRESHOLDS, pair_errors
from covis.evaluation.sweep.pairs import pair_map
from covis.export.attention_analysis import model_of_bundle
from covis.export.models import load_model
from covis.export.models.cameras import pose_to_cameras
from covis.export.models.multiview import patch_grid
from covis.export.ops.fp8 import low_precision
from covis.export.selection.block_maps import PairSelection
from covis.export.selection.similarity import descriptor_similarity

SHARES = (0.5, 0.25, 0.126)


def load_vggt(bundle: Path | None, weights: Path | None) -> Any:
    """Load the torch model of a bundle, or of a released weights file."""
    if weights is None:
        assert bundle is not None
        return model_of_bundle(open_bundle(bundle))
    with safe_open(weights, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
    return load_model("vggt", config, weights)


class Estimator:
    """Cameras of one scene under any pair map; each type encodes the images once."""

    def __init__(self, model: Any, images: torch.Tensor) -> None:
        self.model = model
        self.size = (int(images.shape[-2]), int(images.shape[-1]))
        self.images = images
        self.tokens = model.encode(images)

    def similarity(self) -> np.ndarray[Any, Any]:
        """Return similarities (M, M) as the saliency stage computes them."""
        found: np.ndarray[Any, Any] = descriptor_similarity(self.tokens[0].float()).numpy()
        return found

    def extrinsics(self, level: np.ndarray[Any, Any] | None, mode: str) -> np.ndarray[Any, Any]:
        """Return extrinsics (M, 3, 4) with a frame-pair map (M, M), or dense; level 1 as `mode`."""
        height, width = self.size
        views = len(self.images)
        full = np.full((views, views), 2) if level is None else level
        selection = PairSelection(
            torch.tensor(full, dtype=torch.int8)[None],
            torch.zeros(self.model.global_layers, dtype=torch.int64),
            math.prod(patch_grid(height, width)),
        )
        with torch.no_grad(), low_precision(mode):
            token, *_ = self.model.aggregate((self.tokens[0][None],), height, width, selection)
            pose = self.model.camera_head(token)[0]
        extrinsics, _ = pose_to_cameras(pose.double(), height, width)
        result: np.ndarray[Any, Any] = extrinsics.numpy()
        return result


def measure(
    model: Any, half: Any, truth: GroundTruth, shares: tuple[float, ...]
) -> dict[str, Record]:
    """Return the pose record of each setting on one scene."""
    stack = np.stack([np.asarray(image) for image in truth.images])
    images = torch.tensor(stack).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        single = Estimator(model, images)
        narrow = Estimator(half, images.half())
    views = len(truth)
    found = {
        "fp32": single.extrinsics(None, "exact"),
        "fp16": narrow.extrinsics(None, "exact"),
        "fp8": single.extrinsics(_all_low(views), "fp8"),
    }
    similarity = single.similarity()
    for share in shares:
        kept = pair_map(similarity, share)
        found[f"regime 2, {share:.1%}"] = single.extrinsics(np.maximum(kept, 1), "fp8")
        found[f"skip, {share:.1%}"] = single.extrinsics(kept, "exact")
    common = {"scene": truth.scene.name, "group": truth.scene.group, "views": views}
    return {
        name: {**common, **score_pose(e, truth), "moved": _moved(e, found["fp32"])}
        for name, e in found.items()
    }


def _moved(cameras: np.ndarray[Any, Any], exact: np.ndarray[Any, Any]) -> float:
    """Return the median over pairs of the larger relative angle to the cameras of fp32, degrees."""
    return float(np.median(np.maximum(*pair_errors(cameras, exact))))


def _all_low(views: int) -> np.ndarray[Any, Any]:
    return np.ones((views, views), np.int8)


def run(
    model: Any, kinds: tuple[str, ...], scenes: int, views: int, size: int,
    shares: tuple[float, ...] = SHARES,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Return summaries by setting, over `scenes` held-out scenes of each kind."""
    import copy

    from covis.synthetic import HELD_OUT_SEEDS

    half = copy.deepcopy(model).half()
    records: dict[str, list[Record]] = {}
    first = HELD_OUT_SEEDS.start
    for kind in kinds:
        spec = f"{kind}/{first}-{first + scenes - 1}/{views}"
        dataset = SyntheticScenes((spec,), (size, size), shadows=False)
        for ref in dataset.scenes():
            truth = sample_views(dataset.load(ref), views)
            for name, record in measure(model, half, truth, shares).items():
                records.setdefault(name, []).append(record)
    return {
        name: {**aggregate(found), "moved": float(np.mean([r["moved"] for r in found]))}
        for name, found in records.items()
    }


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """Return one row for each setting: AUC and its loss against fp32."""
    # Older records have no AUC@3.
    thresholds = [t for t in THRESHOLDS if all(f"auc{t}" in row for row in rows.values())]
    aucs = (f"AUC@{threshold}" for threshold in thresholds)
    names = ("setting", *aucs, "rotation", "translation", "AUC@30 - fp32", "moved from fp32")
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for name, row in rows.items():
        cells = [f"{100 * row[f'auc{t}']:.1f}" for t in thresholds]
        cells += [f"{row[key]:.2f}°" for key in ("rotation_median", "translation_median")]
        loss = 100 * (row["auc30"] - rows["fp32"]["auc30"])
        cells += [f"{loss:+.2f}", f"{row['moved']:.3f}°"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", type=Path, default=Path("covis/assets/demo"))
    parser.add_argument("--weights", type=Path, help="a safetensors file instead of the bundle's")
    parser.add_argument("--kinds", nargs="+", default=["studio/scatter", "studio/orbit"])
    parser.add_argument("--scenes", type=int, default=6, help="of each kind")
    parser.add_argument("--views", type=int, default=24)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/precision_accuracy.json")
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    begun = time.process_time()
    model = load_vggt(arguments.bundle, arguments.weights)
    rows = run(model, tuple(arguments.kinds), arguments.scenes, arguments.views, arguments.size)
    record = {
        "kinds": arguments.kinds,
        "scenes": arguments.scenes,
        "views": arguments.views,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cpu_seconds": round(time.process_time() - begun, 1),
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
