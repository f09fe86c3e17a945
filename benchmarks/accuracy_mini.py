"""Accuracy of covis-mini on held-out synthetic scenes: dense, against baselines, and sparse.

    python benchmarks/accuracy_mini.py                       # of the bundle that ships
    python benchmarks/precision_accuracy.py                  # its table is included if it exists,
    python benchmarks/anchors_accuracy.py                    # and so are these

Writes `benchmarks/results/accuracy_mini.json`, `docs/explanation/accuracy.md` and the pictures
beside it. An interrupted run continues in `--work`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from covis.engines.options import RunOptions, Sparsity
from covis.evaluation.accuracy.job import Job
from covis.evaluation.accuracy.scoring import Record, ScoreOptions, evaluate_scene, score_pose
from covis.evaluation.accuracy.summary import aggregate
from covis.evaluation.datasets.synthetic import SyntheticScenes
from covis.evaluation.datasets.truth import GroundTruth, sample_views
from covis.evaluation.metrics.pose import THRESHOLDS
from covis.evaluation.sweep.axes import SweepAxes
from covis.evaluation.sweep.report import Row, markdown, row
from covis.evaluation.sweep.settings import settings
from covis.evaluation.sweep.sweep import Sweep
from covis.runtime.pipeline import Pipeline, load
from covis.runtime.scene.from_heads import nearest_rotation
from covis.synthetic import (
    HELD_OUT_SEEDS,
    TRAINING_SEEDS_START,
    SceneSpec,
    build,
    camera_path,
)

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("studio/orbit", "studio/scatter", "studio/turn", "studio/walk", "room/orbit", "loop/loop")
SPARSE_KINDS = ("studio/scatter", "studio/orbit")


def dense_table(
    pipeline: Pipeline, kinds: Sequence[str], scenes: int, views: int
) -> dict[str, dict[str, Any]]:
    """Return summaries by kind and estimator: the model with dense attention, and two baselines."""
    dense = Sparsity(selector="dense")
    out: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        records: dict[str, list[Record]] = {"covis-mini": [], "identity": [], "mean pose": []}
        mean = mean_training_pose(kind)
        for truth in truths(kind, scenes, views, pipeline):
            record = evaluate_scene(pipeline, truth, dense, ScoreOptions(metrics=("pose", "depth")))
            records["covis-mini"].append(record)
            guess = np.tile(mean, (len(truth), 1, 1))
            guess[0] = np.eye(3, 4)
            for name, cameras in (
                ("identity", np.tile(np.eye(3, 4), (len(truth), 1, 1))),
                ("mean pose", guess),
            ):
                common = {"scene": truth.scene.name, "group": truth.scene.group, "views": views}
                records[name].append({**common, **score_pose(cameras, truth)})
        out[kind] = {name: aggregate(found) for name, found in records.items()}
    return out


def truths(kind: str, scenes: int, views: int, pipeline: Pipeline) -> list[GroundTruth]:
    """Return held-out scenes: `views` of twelve along the path, in random order, as in training."""
    dataset = made(kind, max(views, 12), pipeline)
    return [sample_views(dataset.load(ref), views) for ref in dataset.scenes()[:scenes]]


def made(kind: str, views: int, pipeline: Pipeline) -> SyntheticScenes:
    """Return a dataset of a kind, rendered at the bundle's size without shadows, as in training.

    The number of scenes is always the same, so that a sweep of more scenes continues a shorter one.
    """
    rule = pipeline.bundle.manifest.pixel_rule
    first = HELD_OUT_SEEDS.start
    spec = f"{kind}/{first}-{first + 255}/{views}"
    return SyntheticScenes((spec,), (rule.height, rule.width), shadows=False)


def mean_training_pose(kind: str, scenes: int = 200) -> NDArray[np.float64]:
    """Return the mean pose (3, 4) of another view in a first view's frame, over training scenes.

    It consists of the rotation nearest to the mean matrix, and the mean translation.
    """
    family, _, path = kind.partition("/")
    relative = []
    for seed in range(TRAINING_SEEDS_START, TRAINING_SEEDS_START + scenes):
        world = build(SceneSpec(seed, family))  # type: ignore[arg-type]
        extrinsics = camera_path(world, 12, path).extrinsics  # type: ignore[arg-type]
        order = np.random.default_rng(seed).permutation(12)
        e = extrinsics[order]
        r = e[1:, :, :3] @ e[0, :, :3].T
        t = e[1:, :, 3] - r @ e[0, :, 3]
        relative.append(np.concatenate([r, t[:, :, None]], axis=2))
    mean = np.concatenate(relative).mean(axis=0)
    rotation = nearest_rotation(mean[None, :, :3])[0]
    return np.concatenate([rotation, mean[:, 3:]], axis=1)


def sparse_sweep(
    pipeline: Pipeline, kinds: Sequence[str], scenes: int, views: int, work: Path, axes: SweepAxes
) -> dict[str, list[Row]]:
    """Return the rows of a sweep by kind, over many views of which many share no content."""
    manifest = pipeline.bundle.manifest
    out = {}
    for kind in kinds:
        job = Job(
            bundle=pipeline.bundle.path,
            dataset=made(kind, views, pipeline),
            sparsity=manifest.sparsity,
            score=ScoreOptions(metrics=("pose",)),
            views=views,
        )
        # Neighbours that are always kept would blur what tau alone does.
        base = Sparsity(min_neighbours=0)
        points = settings(axes, base, manifest.model.global_layers)
        whole = Sweep(work / kind.replace("/", "-"), {"": pipeline}, job, points)
        refs = job.dataset.scenes()[:scenes]
        whole.run(refs, lambda scene, name: print(f"\r{scene} {name:<40}", end="", flush=True))
        print()
        out[kind] = [row(s, whole.records(s, refs)) for s in whole.settings]
    return out


def attention_table(pipeline: Pipeline, kind: str, scenes: int, views: int) -> list[dict[str, Any]]:
    """Return attention by layer; empty without torch."""
    try:
        import torch

        from covis.export.attention_analysis import analyse, mean_over_scenes, model_of_bundle
    except ModuleNotFoundError:
        return []
    from covis.runtime.photos.images import load_images

    model = model_of_bundle(pipeline.bundle)
    found = []
    for truth in truths(kind, scenes, views, pipeline):
        images = load_images(truth.images, pipeline.bundle.manifest.pixel_rule)
        found.append(analyse(model, torch.from_numpy(images.batch(0, len(images)))))
    return mean_over_scenes(found)


def page(record: dict[str, Any], pictures: Sequence[Path]) -> str:
    """Return the text of docs/explanation/accuracy.md."""
    options = record["options"]
    named = {path.stem: f"![{path.stem}]({path.parent.name}/{path.name})" for path in pictures}
    parts = [
        "# Accuracy of covis-mini\n",
        "Measured by `python benchmarks/accuracy_mini.py` (raw numbers: "
        "`benchmarks/results/accuracy_mini.json`). " + _provenance(record["training"]),
        "AUC is over all pairs of views, the error of a pair being the larger of its rotation and "
        "translation angles, as for CO3D in VGGT's evaluation; see "
        "[datasets and metrics](../reference/datasets-and-metrics.md). "
        "Scenes are held out: no seed of theirs was trained on. AUC in percent.\n",
        "## Dense, against baselines\n",
        f"{options['scenes']} scenes of each kind, {options['views']} views each. `identity`: all"
        " cameras in one place; `mean pose`: every view at the mean pose of the training scenes'"
        " views. Kinds that were not trained on are marked.\n",
        _dense_markdown(record["dense"], record["training"]),
    ]
    for kind, rows in record["sparse"].items():
        parts += [
            f"## Sparse: {kind}\n",
            f"{options['wide_scenes']} scenes of {options['wide_views']} views. `random` pairs and"
            " `oracle` (true co-visibility) keep as many pairs as `saliency`. All keep self-pairs"
            " and the pairs of the first view, so `pairs kept` cannot be lower.\n",
            markdown(rows, record["depth"]),
        ]
    parts += [named[n] + "\n" for n in ("pareto", "pairs", "layers") if n in named]
    if record["attention"]:
        parts += ["## Where attention goes\n", _attention_markdown(record["attention"])]
        parts += [named["attention"] + "\n"] if "attention" in named else []
    if record["anchors"]:
        from anchors_accuracy import section

        parts.append(section(record["anchors"]))
    if record["precision"]:
        from precision_accuracy import markdown as precision_markdown

        low = record["precision"]
        parts += [
            "## Low precision against skipping\n",
            f"`python benchmarks/precision_accuracy.py`: {low['scenes']} scenes of each of"
            f" {', '.join(low['kinds'])}, {low['views']} views, all global layers. FP8 is emulated"
            " in torch (e4m3 with the scales of the Hopper kernels), not run on hardware. Regime 2"
            " computes the kept share of the pairs in full and the others in FP8.\n",
            precision_markdown(low["rows"]),
        ]
    return "\n".join(parts)


def _provenance(training: dict[str, Any] | None) -> str:
    if not training:
        return "The bundle has no training record: its numbers mean nothing.\n"
    run = training.get("training", {})
    runs = [*run.get("earlier_runs", []), run]
    steps, images = (sum(r.get(k, 0) for r in runs) for k in ("steps_done", "images_seen"))
    text = (
        f"{training.get('parameters', 0) / 1e6:.2f} M parameters, {steps:,} steps in "
        f"{sum(r.get('hours', 0) for r in runs):.1f} h on one CPU core ({images:,} images).\n"
    )
    if run.get("configuration", {}).get("curriculum", [{}])[-1].get("in_room"):
        text += "\n" + _IN_ROOM
    return text


_IN_ROOM = """\
How to read these numbers: the model was trained to place views in the coordinate frame of the \
room they show. All rooms of a family share their layout, so it can place a view largely from that \
view alone. Large models rely on comparing views; covis-mini did not learn this in its short \
training. (Trained for poses relative to the first view, it was still at the baselines after 600 \
steps.) Skipping pairs therefore costs covis-mini less than it may cost VGGT-1B. Read the tables \
as a test that the method works end to end, and measure the official weights with `covis sweep` \
before you rely on a threshold. The sweeps cover few scenes, so differences of one point of AUC \
are not significant.
"""


def _dense_markdown(table: dict[str, dict[str, Any]], training: dict[str, Any] | None) -> str:
    seen = _trained_kinds(training)
    aucs = " | ".join(f"AUC@{threshold}" for threshold in THRESHOLDS)
    errors = f"{aucs} | rotation | translation | AbsRel | delta < 1.25"
    lines = [f"| scenes | estimator | {errors} |", "|" + "---|" * 10]
    for kind, estimators in table.items():
        for name, found in estimators.items():
            cells = [f"{100 * found[f'auc{t}']:.1f}" for t in THRESHOLDS]
            cells += [f"{found[k]:.1f}°" for k in ("rotation_median", "translation_median")]
            depth = (found.get("abs_rel"), found.get("delta_1.25"))
            cells += ["" if v is None else f"{v:.3f}" for v in depth]
            mark = "" if not seen or kind in seen else " (not trained on)"
            lines.append(f"| {kind}{mark} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _trained_kinds(training: dict[str, Any] | None) -> set[str]:
    curriculum = (training or {}).get("training", {}).get("configuration", {}).get("curriculum", [])
    return {kind for phase in curriculum for kind in phase["scenes"]}


def _attention_markdown(layers: list[dict[str, Any]]) -> str:
    kinds = ("special_special", "special_patch", "patch_special", "patch_patch")
    head = [f"{kind.replace('_', ' to ')}: mean, max" for kind in kinds]
    columns = ("layer", *head, "top 1 % of blocks", "5 %", "10 %")
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * 8]
    for layer in layers:
        cells = [
            f"{layer['attention'][k]['mean']:.2e}, {layer['attention'][k]['max']:.2f}"
            for k in kinds
        ]
        cells += [f"{layer['top_blocks'][s]:.1%}" for s in ("1", "5", "10")]
        lines.append(f"| {layer['layer']} | {' | '.join(cells)} |")
    note = f"Blocks of 128 x 64 patch tokens, {layers[0]['blocks']} for each layer and head.\n"
    return "\n".join(lines) + "\n\n" + note


def draw(record: dict[str, Any], folder: Path) -> list[Path]:
    """Draw the pictures of the first sparse kind."""
    from covis.evaluation.sweep import pictures

    folder.mkdir(parents=True, exist_ok=True)
    rows = next(iter(record["sparse"].values()), [])
    drawn = []
    if rows:
        drawn = [
            pictures.draw_pareto(rows, folder / "pareto.png"),
            pictures.draw_pairs(rows, folder / "pairs.png"),
            pictures.draw_drops(rows, folder / "layers.png"),
        ]
    if record["attention"]:
        drawn.append(pictures.draw_attention(record["attention"], folder / "attention.png"))
    return [path for path in drawn if path is not None]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything, and return it as JSON values."""
    begun = time.process_time()
    options = RunOptions(chunk=24, threads=arguments.threads)
    pipeline = load(arguments.bundle, options)
    axes = SweepAxes(
        taus=tuple(arguments.taus),
        layers=("third", "two-thirds", "all"),
        shares=(0.5, 0.25, 0.126),
        drops=True,
        anchors=(),  # benchmarks/anchors_accuracy.py has these
    )
    training = _read(arguments.bundle.resolve().parent / "covis-mini.json")
    return {
        "options": {k: v for k, v in vars(arguments).items() if not isinstance(v, Path)},
        "onnxruntime": onnxruntime.__version__,
        "bundle": pipeline.bundle.digest(),
        "depth": pipeline.bundle.manifest.model.global_layers,
        "training": training,
        "dense": dense_table(pipeline, arguments.kinds, arguments.scenes, arguments.views),
        "sparse": sparse_sweep(
            pipeline,
            arguments.sparse_kinds,
            arguments.wide_scenes,
            arguments.wide_views,
            arguments.work,
            axes,
        ),
        "attention": attention_table(
            pipeline, arguments.sparse_kinds[0], min(2, arguments.wide_scenes), arguments.wide_views
        ),
        "precision": _read(arguments.precision),
        "cpu_seconds": round(time.process_time() - begun, 1),
    }


def _read(path: Path) -> dict[str, Any] | None:
    return dict(json.loads(path.read_text())) if path.is_file() else None


def parser() -> argparse.ArgumentParser:
    """Return the command line parser."""
    out = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    results = ROOT / "benchmarks" / "results"
    out.add_argument("--bundle", type=Path, default=ROOT / "covis" / "assets" / "demo")
    out.add_argument("--kinds", nargs="+", default=list(KINDS))
    out.add_argument("--sparse-kinds", nargs="+", default=list(SPARSE_KINDS))
    out.add_argument("--scenes", type=int, default=16, help="of each kind, for the dense table")
    out.add_argument("--views", type=int, default=8)
    out.add_argument("--wide-scenes", type=int, default=2, help="of each kind, for the sweep")
    out.add_argument("--wide-views", type=int, default=24)
    out.add_argument("--taus", nargs="+", type=float, default=[0.3, 0.5, 0.7, 0.8, 0.9])
    out.add_argument("--threads", type=int, default=1)
    out.add_argument("--work", type=Path, default=ROOT / "build" / "accuracy_mini")
    out.add_argument("--precision", type=Path, default=results / "precision_accuracy.json")
    out.add_argument("--anchors", type=Path, default=results / "anchors_accuracy.json")
    out.add_argument("--out", type=Path, default=results / "accuracy_mini.json")
    out.add_argument("--page", type=Path, default=ROOT / "docs" / "explanation" / "accuracy.md")
    return out


def main(words: Sequence[str] | None = None) -> None:
    """Measure, and write the record, the page and the pictures."""
    arguments = parser().parse_args(words)
    record = measure(arguments)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    pictures = draw(record, arguments.page.parent / "accuracy")
    anchors = _read(arguments.anchors)  # too large to be stored twice
    arguments.page.write_text(page({**record, "anchors": anchors}, pictures))
    print(arguments.page.read_text())
    print(f"{record['cpu_seconds']} CPU seconds")


if __name__ == "__main__":
    main()
