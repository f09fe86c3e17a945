"""VGGT end to end on a GPU, dense and sparse, with the settings of the literature.

    covis build BUNDLE --views 1:500:1000 --chunk 16
    python benchmarks/vggt_gpu.py BUNDLE --photos DIR --out benchmarks/results/vggt_h200.json

100, 500 and 1,000 views of 518 x 518. First the settings that need no similar views: `light`,
`anchors` with 10, 25 and 40 anchors by the default schedule, and the published schedule `gotohunt`.
Then global layers 0-9 and 0-14 sparse, 12.6 % and 6.2 % of the frame pairs computed. tau is found
by bisection on the scene's own similarity matrix. Random weights (see benchmarks/random_weights.py)
are enough for time and memory, but all their views are similar. Where no tau selects the required
share, a synthetic map of pairs along a camera path is used instead, and the record contains this.
All settings of one number of views alternate in one run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu_facts import gpu_facts
from covis.engines.errors import CovisError, GpuOutOfMemoryError
from covis.engines.options import BackendOptions, RunOptions, Sparsity
from covis.engines.pair_rules import pair_rules
from covis.engines.schedule import resolve
from covis.evaluation.bench.measure import (
    Schedule,
    Setting,
    measure,
    peak_bytes,
    random_images,
    reset_peak,
)
from covis.evaluation.bench.record import ratios, setting_record
from covis.evaluation.bench.settings import named_setting
from covis.evaluation.sweep.predict import attention_work
from covis.runtime.photos.find import find
from covis.runtime.photos.images import Images, load_images
from covis.runtime.pipeline import Pipeline, load

NEAR = 0.1  # relative error of a share of pairs up to which tau counts as reaching it
PERCENTILES = (90.0, 99.0)
SETTINGS = ("light", "anchors=10", "anchors=25", "anchors=40", "gotohunt")


def kept_pairs(similarity: NDArray[Any], tau: float, reference: int) -> NDArray[np.bool_]:
    """Return the pairs (M, M) that saliency selects, with self pairs and the reference's."""
    kept: NDArray[np.bool_] = similarity >= tau
    np.fill_diagonal(kept, True)
    if reference >= 0:
        kept[reference, :] = kept[:, reference] = True
    return kept


def find_tau(similarity: NDArray[Any], share: float, reference: int) -> tuple[float, float]:
    """Return (tau, share of pairs): the largest tau that selects at least `share`.

    Bisection over the values that occur; the share falls as tau rises.
    """
    values = np.unique(np.clip(similarity.astype(np.float64), 0.0, 1.0))
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if kept_pairs(similarity, float(values[middle]), reference).mean() >= share:
            low = middle
        else:
            high = middle - 1
    tau = float(values[low])
    return tau, float(kept_pairs(similarity, tau, reference).mean())


def synthetic_pairs(views: int, share: float, reference: int, seed: int = 0) -> NDArray[np.int8]:
    """Return a level map (M, M) with `share` of the pairs, near and far along a path.

    Each view attends to itself, the reference, and as many next neighbours as the share allows. The
    remaining pairs, at most a tenth, are symmetric and distant, where the path returns to a place.
    """
    kept = kept_pairs(np.zeros((views, views)), 1.0, reference)
    target = round(share * views * views)
    gap = np.abs(np.subtract.outer(np.arange(views), np.arange(views)))
    for width in range(1, views):
        wider = kept | (gap <= width)
        if wider.sum() > 0.9 * target:
            break
        kept = wider
    random = np.random.default_rng(seed)
    far = np.argwhere(np.triu(~kept))
    missing = max(target - int(kept.sum()), 0) // 2
    for i, j in far[random.permutation(len(far))[:missing]]:
        kept[i, j] = kept[j, i] = True
    level: NDArray[np.int8] = (2 * kept).astype(np.int8)
    return level


@dataclass(frozen=True)
class Selection:
    """Pairs of a share, and the way they were selected."""

    wanted: float
    kept: float
    tau: float | None
    pairs: str


def select(
    similarity: NDArray[Any], share: float, reference: int
) -> tuple[Selection, NDArray[np.int8]]:
    """Select pairs by tau where that can reach the share, else by a synthetic map."""
    tau, reached = find_tau(similarity, share, reference)
    if abs(reached - share) <= NEAR * share:
        level = (2 * kept_pairs(similarity, tau, reference)).astype(np.int8)
        return Selection(share, reached, tau, "by saliency"), level
    level = synthetic_pairs(len(similarity), share, reference)
    why = f"made, along a path: saliency keeps {reached:.1%} at tau {tau:.4f}"
    return Selection(share, float((level > 0).mean()), None, why), level


def pictures(pipeline: Pipeline, folder: Path | None, views: int) -> tuple[Images, str]:
    """Return `views` photos, spread evenly over a folder, or synthetic ones; and their kind."""
    rule = pipeline.bundle.manifest.pixel_rule
    if folder is None:
        return random_images(views, rule), "made"
    found = find(folder).photos
    chosen = [found[i] for i in np.linspace(0, len(found) - 1, views).round().astype(int)]
    repeated = f", {views - len(set(chosen))} of them twice" if len(set(chosen)) < views else ""
    return load_images(chosen, rule), f"{folder}{repeated}"


def run(
    pipeline: Pipeline,
    images: Images,
    words: list[str],
    layers: list[str],
    shares: list[float],
    schedule: Schedule,
) -> dict[str, Any]:
    """Run all settings in alternation, on one number of views.

    Args:
        pipeline: Bundle and backend.
        images: Photos.
        words: Settings by name beside dense, see `named_setting`.
        layers, shares: Sets of layers, and shares of pairs to compute in each of them.
        schedule: Number and duration of the runs.
    """
    views, model = len(images), pipeline.bundle.manifest.model
    base = Sparsity(selector="dense")
    values = pipeline.run_stages(images, base, lambda stage, done, total: None)
    similarity = values["similarity"]
    del values
    settings = {"dense": Setting(base)}
    named = {word: named_setting(word, Sparsity()) for word in words}
    settings |= {word: Setting(resolve(sparsity, views)) for word, sparsity in named.items()}
    work = {
        name: attention_work(
            similarity, setting.sparsity, model.global_layers, model.reference_view
        )
        for name, setting in settings.items()
    }
    selections: dict[str, Selection] = {}
    for share in shares:
        selection, level = select(similarity, share, 0 if model.reference_view else -1)
        for which in layers:
            name = f"layers {which}, {share:.1%}"
            sparsity = Sparsity(selector="saliency", layers=which)
            rules = pair_rules(sparsity, model.global_layers, views, model.reference_view)
            maps = pipeline.pair_maps(level, views, sparsity)
            selections[name] = selection
            settings[name] = Setting(sparsity, maps)
            work[name] = float((maps > 0).mean(axis=(1, 2))[rules.layer_map].mean())
    samples = measure(
        pipeline, images, settings, schedule, lambda name, turn: print(f"  {name}, run {turn}")
    )
    speedup = ratios(samples, "dense")
    record: dict[str, Any] = {"views": views, "settings": {}}
    for name, taken in samples.items():
        entry = setting_record(taken, views, PERCENTILES, 1) | {"attention_work": work[name]}
        if name in selections:
            entry["selection"] = asdict(selections[name])
        if name in speedup:
            entry["speedup"] = speedup[name]
        record["settings"][name] = entry
    return record


def fit(pipeline: Pipeline, most: int, share: float) -> dict[str, Any]:
    """Run as many synthetic views as fit, at most `most`, sparse in all layers, for the record.

    Where the GPU is too full, the pipeline's error contains the number of views that fits, and that
    number is run.
    """
    rule, memory = pipeline.bundle.manifest.pixel_rule, pipeline.backend.memory
    reference = 0 if pipeline.bundle.manifest.model.reference_view else -1
    record: dict[str, Any] = {"asked": most, "views": None, "kept": share, "refused": []}
    sparsity, views = Sparsity(selector="saliency", layers="all"), most
    while record["views"] is None:
        images = random_images(views, rule)
        level = synthetic_pairs(views, share, reference)
        maps = pipeline.pair_maps(level, views, sparsity)
        reset_peak(memory)
        started = time.perf_counter()
        try:
            pipeline.run_stages(images, sparsity, lambda stage, done, total: None, maps)
        except CovisError as error:
            record["refused"].append({"views": views, "said": str(error)})
            fewer = error.views if isinstance(error, GpuOutOfMemoryError) else None
            if fewer is None or fewer >= views:
                break
            views = fewer
        else:
            seconds = time.perf_counter() - started
            record |= {"views": views, "seconds": seconds, "peak_bytes": peak_bytes(memory)}
    return record


def table(records: list[dict[str, Any]], unit: str) -> str:
    """Return Markdown with a row for each setting."""
    lines = [
        f"| views | setting | attention computed | aggregator {unit} | whole {unit} | aggregator "
        "speed-up | whole speed-up |",
        "|---|---|---|---|---|---|---|",
    ]
    for record in records:
        for name, setting in record["settings"].items():
            stage = setting["stages"]["aggregator"]["latency_ms"]["median"]
            speedup = setting.get("speedup")
            lines.append(
                f"| {record['views']} | {name} | "
                f"{setting['attention_work']:.1%} | "
                f"{stage:.1f} | {setting['latency_ms']['median']:.1f} | "
                + (f"{speedup['aggregator']:.2f} | {speedup['whole']:.2f} |" if speedup else " | |")
            )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, run, print a table, write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--views", default="100,500,1000")
    parser.add_argument("--most", type=int, help="then one sparse run of so many, or what fits")
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), help="see covis bench")
    parser.add_argument("--layers", default="0-9;0-14", help="sets, apart by semicolons")
    parser.add_argument("--kept", default="0.126,0.062")
    parser.add_argument("--chunk", type=int, default=16)
    parser.add_argument("--warm-up", type=float, default=0.0, help="ms; two runs at least")
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--backend", default="tensorrt")
    parser.add_argument("--plans", type=Path)
    parser.add_argument("--plugin", type=Path)
    parser.add_argument("--weights", choices=("trained", "random"), help="what the bundle holds")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    where = BackendOptions(backend=options.backend, plans=options.plans, plugin=options.plugin)
    pipeline = load(options.bundle, RunOptions(chunk=options.chunk, backend=where))
    manifest = pipeline.bundle.manifest
    rule = manifest.pixel_rule
    record: dict[str, Any] = {
        **gpu_facts(),
        **pipeline.backend.about(),
        "absolute_times": "of this GPU" if where.on_gpu else "of a CPU: use the ratios",
        "model": manifest.model.name,
        "weights": options.weights or f"{manifest.weights.source} (not said whether trained)",
        "precision": manifest.precision.name,
        "image_size": [rule.height, rule.width],
        "published_set_up": (rule.height, rule.width) == (518, 518),
        "chunk": options.chunk,
        "runs": [],
    }
    schedule = Schedule(options.warm_up, options.iterations, 0.0)
    shares = [float(share) for share in options.kept.split(",")]

    def write() -> None:
        if options.out:  # after each number of views, because the next one may not fit
            scratch = options.out.with_name(f".{options.out.name}.partial")
            scratch.write_text(json.dumps(record, indent=1) + "\n")
            scratch.replace(options.out)

    for views in map(int, options.views.split(",")):
        images, photos = pictures(pipeline, options.photos, views)
        print(f"{views} views, {photos}", flush=True)
        found = run(
            pipeline,
            images,
            options.settings,
            [which for which in options.layers.split(";") if which],
            shares,
            schedule,
        )
        record["runs"].append({"photos": photos, **found})
        write()
    if options.most:
        record["most"] = fit(pipeline, options.most, min(shares))
        write()
        print(f"as many as fit: {record['most']}", flush=True)
    print(table(record["runs"], "ms" if where.on_gpu else "CPU ms"))


if __name__ == "__main__":
    main()
