"""Mean fill: skipped regions enter the softmax as one row each. Does it win at equal cost?

    python benchmarks/mean_fill.py scenes
    python benchmarks/mean_fill.py photos FOLDER FOLDER
    python benchmarks/mean_fill.py heads

Three measurements, in torch on one thread, each added to `benchmarks/results/mean_fill.json`, so
that cases can be measured one after the other:

- `scenes`: covis-mini on held-out synthetic scenes. The error of each global layer's attention on
  the inputs of the dense run, and cameras and depth when every global layer runs in that setting.
- `photos`: the same error, by head, on photos at 336 x 336, where a frame has nine pieces of 64.
- `heads`: the same error of heads composed with the statistics published of VGGT, and the shares
  of energy that `photos` measured.

The cases are those of `mean_fill_cases.py`. An error is the relative root mean square of the
attention output of all patch tokens, against dense attention.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mean_fill_cases import Case, cases
from mean_fill_heads import QKV, Ring, Shares, head
from mean_fill_model import CovisMini, Recorder, in_case
from mean_fill_table import THRESHOLDS, markdown, mean_square
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from covis.evaluation.datasets.synthetic import SyntheticScenes
from covis.evaluation.datasets.truth import GroundTruth
from covis.evaluation.metrics.drift import drift
from covis.evaluation.metrics.pose import auc, pair_errors, undirected
from covis.export.ops import TokenLayout
from covis.export.selection.similarity import descriptor_similarity
from covis.synthetic import HELD_OUT_SEEDS

ROOT = Path(__file__).resolve().parent.parent
PHOTO_SIDE = 336
HEADS = (
    "uniform 0.99",
    "uniform 0.94",
    "first frame",
    "own frame",
    "vertical lines",
    "correspondence 0.9",
    "correspondence 0.7",
)


def scene_records(
    model: CovisMini, truth: GroundTruth, anchors: Sequence[int], ratios: Sequence[float]
) -> dict[str, dict[str, Any]]:
    """Return the record of each case, and of dense attention, on one scene."""
    stack = np.stack([np.asarray(image) for image in truth.images])
    images = torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255
    tokens, layout, every = _prepared(model, images, anchors, ratios)
    recorder = Recorder(every, layout)
    exact = model.run(images, tokens, recorder)
    found = {"dense": _judged(exact, exact, truth)}
    for case in every:
        result = model.run(images, tokens, in_case(case, layout))
        layers = recorder.errors[case.name]
        found[case.name] = {
            "cost": case.cost(layout.patches_per_frame),
            "layers": [mean_square(heads) for heads in layers],
            **_judged(result, exact, truth),
        }
    return found


def _prepared(
    model: CovisMini, images: Tensor, anchors: Sequence[int], ratios: Sequence[float]
) -> tuple[Tensor, TokenLayout, list[Case]]:
    """Return patch tokens, layout and cases of a scene."""
    tokens = model.model.encode(images)[0]
    layout = model.model.layout(*images.shape[-2:])
    similarity = descriptor_similarity(tokens).double().numpy()
    return tokens, layout, list(cases(similarity, layout.patches_per_frame, anchors, ratios))


def _judged(
    result: tuple[NDArray[Any], NDArray[Any]],
    exact: tuple[NDArray[Any], NDArray[Any]],
    truth: GroundTruth,
) -> dict[str, Any]:
    """Return pair errors (for pooling) and the drift from the dense result."""
    rotation, translation = pair_errors(result[0], truth.extrinsics)
    moved = drift(*result, reference_extrinsics=exact[0], reference_depth=exact[1])
    return {
        "pair_errors": np.maximum(rotation, undirected(translation)),
        "rotation_drift": moved.rotation_deg_mean,
        "pose_drift": moved.pose_deg,
        "depth_drift": moved.depth_rel_mean,
    }


def over_scenes(scenes: Sequence[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return one row for each case: AUC of the pooled pairs, means of everything else."""
    rows: dict[str, dict[str, Any]] = {}
    for name in scenes[0]:
        found = [scene[name] for scene in scenes]
        pooled = np.concatenate([each["pair_errors"] for each in found])
        row: dict[str, Any] = {f"auc{t}": round(auc(pooled, t), 4) for t in THRESHOLDS}
        for key in sorted(set(found[0]) - {"pair_errors"}):
            row[key] = np.mean([each[key] for each in found], axis=0).round(5).tolist()
        rows[name] = row
    return rows


def photo_record(
    model: CovisMini, folder: Path, views: int, anchors: Sequence[int], ratios: Sequence[float]
) -> dict[str, Any]:
    """Return errors of every case by layer and head, and statistics of the layers, on photos."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in {".jpg", ".png"})
    images = torch.stack([_photo(path) for path in paths[:views]])
    tokens, layout, every = _prepared(model, images, anchors, ratios)
    recorder = Recorder(every, layout)
    model.run(images, tokens, recorder)
    return {"tokens": len(images) * layout.frame_tokens, **recorder.record()}


def _photo(path: Path) -> Tensor:
    """Return the central square of a photo, (3, 336, 336) in [0, 1]."""
    with Image.open(path) as photo:
        upright = ImageOps.exif_transpose(photo).convert("RGB")
        square = ImageOps.fit(upright, (PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255


def head_record(ring: Ring, every: Sequence[Case], qkv: QKV) -> dict[str, Any]:
    """Return errors of every case, and statistics, of one head."""
    recorder = Recorder(every, ring.layout)
    recorder(0, *qkv)
    return {"tokens": qkv[0].shape[2], **recorder.record()}


def mean_shares(records: Iterable[dict[str, Any]], name: str) -> Shares:
    """Return the mean shares of `keys` or `values` over all layers of the photos."""
    layers = [layer[name] for record in records for layer in record["layers"]]
    mean = {part: float(np.mean([layer[part] for layer in layers])) for part in layers[0]}
    total = sum(mean.values())
    return Shares(**{part: share / total for part, share in mean.items()})


def truths(kinds: Sequence[str], scenes: int, views: int, size: int) -> list[GroundTruth]:
    """Render held-out scenes of each kind, without shadows, as in training."""
    seeds = f"{HELD_OUT_SEEDS.start}-{HELD_OUT_SEEDS.start + scenes - 1}"
    specs = tuple(f"{kind}/{seeds}/{views}" for kind in kinds)
    dataset = SyntheticScenes(specs, (size, size), shadows=False)
    return [dataset.load(ref) for ref in dataset.scenes()]


def scene_part(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the rows of covis-mini on synthetic scenes, by title of their table."""
    model = CovisMini(arguments.bundle)
    every = truths(arguments.kinds, arguments.scenes, arguments.views, arguments.size)
    budgets = arguments.anchors, arguments.ratios
    records = [scene_records(model, truth, *budgets) for truth in every]
    return {f"covis-mini, {len(every)} scenes of {arguments.views} views": over_scenes(records)}


def photo_part(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the record of each folder of photos."""
    model = CovisMini(arguments.bundle)
    sizes = arguments.views, arguments.anchors, arguments.ratios
    return {folder.name: photo_record(model, folder, *sizes) for folder in arguments.folders}


def head_part(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the record of each kind of head, with the shares that were measured on photos."""
    photos = json.loads(arguments.out.read_text())["photos"]
    shares = tuple(mean_shares(photos.values(), name) for name in ("keys", "values"))
    views, grid = arguments.views, arguments.grid
    found = {}
    for kind in arguments.kinds:
        ring = Ring(views, grid, torch.Generator().manual_seed(7))
        every = list(cases(ring.similarity, grid**2, arguments.anchors, arguments.ratios))
        found[kind] = head_record(ring, every, head(kind, ring, *shares))
    return found


def parser() -> argparse.ArgumentParser:
    """Return the command line parser."""
    out = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--bundle", type=Path, default=ROOT / "covis" / "assets" / "demo")
    common.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/mean_fill.json")
    common.add_argument("--ratios", nargs="*", type=float, default=[0.1, 0.25], help="of pooled")
    parts = out.add_subparsers(dest="part", required=True)
    scenes, photos, heads = (
        parts.add_parser(name, parents=[common]) for name in ("scenes", "photos", "heads")
    )
    scenes.set_defaults(measure=scene_part)
    scenes.add_argument("--kinds", nargs="+", default=["studio/scatter", "studio/orbit"])
    scenes.add_argument("--scenes", type=int, default=3, help="of each kind")
    scenes.add_argument("--views", type=int, default=24)
    scenes.add_argument("--size", type=int, default=112, help="side of the images")
    scenes.add_argument("--anchors", nargs="*", type=int, default=[4, 8, 12])
    photos.set_defaults(measure=photo_part)
    photos.add_argument("folders", nargs="+", type=Path)
    photos.add_argument("--views", type=int, default=14, help="photos of each folder")
    photos.add_argument("--anchors", nargs="*", type=int, default=[2])
    heads.set_defaults(measure=head_part)
    heads.add_argument("--kinds", nargs="+", default=list(HEADS))
    heads.add_argument("--views", type=int, default=16)
    heads.add_argument("--grid", type=int, default=24, help="patches along a side, 8 n")
    heads.add_argument("--anchors", nargs="*", type=int, default=[3])
    return out


def main(words: Sequence[str] | None = None) -> None:
    """Measure one part, print its tables, and add it to the JSON file."""
    arguments = parser().parse_args(words)
    torch.set_num_threads(1)
    begun = time.process_time()
    with torch.no_grad():
        found = arguments.measure(arguments)
    print(markdown({arguments.part: found}))
    print(f"{time.process_time() - begun:.0f} CPU seconds")
    out = arguments.out
    record = json.loads(out.read_text()) if out.is_file() else {}
    record = merged(record, {"torch": torch.__version__, arguments.part: found})
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record) + "\n")


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the new results, which replace old ones of the same names."""
    both = {
        key: merged(old[key], value) if isinstance(value, dict) and key in old else value
        for key, value in new.items()
    }
    return {**old, **both}


if __name__ == "__main__":
    main()
