"""Compare the selectors on one set of photos: work, accuracy, distance from dense, and time.

    python examples/compare_selectors.py BUNDLE PHOTOS
    python examples/compare_selectors.py               # the shipped bundle, rendered photos

The rendered photos have known cameras, so there the errors are shown, too. "random pairs" are as
many as the first setting with anchors computes, and "self only" skips all pairs of different views:
a selector is worth something where it beats the first, and pairs are where dense beats the second.
`covis sweep` and `covis tune` do this thoroughly; this shows how little code it takes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

import covis
from covis.evaluation.metrics.pose import auc, pair_errors, undirected

SHIPPED_BUNDLE = Path(covis.__file__).parent / "assets" / "demo"
VIEWS, SIZE = 24, 112  # of the rendered photos
EQUAL = "anchors, 3 views"
SETTINGS = {
    "dense": covis.Sparsity(selector="dense"),
    EQUAL: covis.Sparsity(selector="anchors", anchors=3, layers="all"),
    "anchors, 6 views": covis.Sparsity(selector="anchors", anchors=6, layers="all"),
    "saliency, tau 0.9": covis.Sparsity(selector="saliency", tau=0.9, layers="all"),
    "saliency, tau 0.6": covis.Sparsity(selector="saliency", tau=0.6, layers="all"),
    "pooled, 25 %": covis.Sparsity(selector="pooled", keep_ratio=0.25, layers="all"),
    "both": covis.Sparsity(selector="both", tau=0.6, keep_ratio=0.25, layers="all"),
    "random pairs": covis.Sparsity(selector="saliency", layers="all"),
    "self only": covis.Sparsity(selector="anchors", schedule="all:self"),
}


def random_pairs(views: int, count: int) -> np.ndarray:
    """Return a map (M, M) of `count` random pairs, those with itself and with view 0 among them."""
    level = 2 * np.eye(views, dtype=np.int8)
    level[:, 0] = 2  # the reference view of VGGT, to which every view attends with anchors as well
    free = np.flatnonzero(level == 0)
    more = min(max(0, count - int((level > 0).sum())), len(free))
    level.flat[np.random.default_rng(0).choice(free, more, replace=False)] = 2
    return level


def main() -> None:
    """Run each setting on the same pipeline and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", nargs="?", type=Path, default=SHIPPED_BUNDLE)
    parser.add_argument("photos", nargs="?", type=Path)
    arguments = parser.parse_args()
    photos, true = arguments.photos, None
    if photos is None:
        from covis.synthetic import demo_scene, write_photos

        rendered = demo_scene(VIEWS, SIZE, SIZE, family="room")
        true = rendered.extrinsics
        photos = Path(tempfile.mkdtemp(prefix="covis-example-")) / "photos"
        write_photos(photos, rendered)
    pipeline = covis.load(arguments.bundle)
    images = pipeline.load_photos(photos)
    scenes: dict[str, covis.Scene] = {}
    print(f"{'setting':<20}{'attention':>11}{'AUC@30':>9}{'from dense':>12}{'seconds':>9}")
    for name, sparsity in SETTINGS.items():
        level = None
        if name == "random pairs" and (report := scenes[EQUAL].sparsity) is not None:
            level = random_pairs(len(images), report.kept_pairs)
        pipeline(images, sparsity=sparsity, pair_level=level)  # load the stages before the clock
        begun = time.perf_counter()
        scene = scenes[name] = pipeline(images, sparsity=sparsity, pair_level=level)
        seconds = time.perf_counter() - begun
        computed = scene.sparsity.attention_work if scene.sparsity else 1.0
        turn = float(np.median(pair_errors(scene.extrinsics, scenes["dense"].extrinsics)[0]))
        score = "-"
        if true is not None:
            rotation, translation = pair_errors(scene.extrinsics, true)
            score = f"{100 * auc(np.maximum(rotation, undirected(translation)), 30):.1f}"
        print(f"{name:<20}{computed:>11.1%}{score:>9}{turn:>11.2f}°{seconds:>9.2f}")


if __name__ == "__main__":
    main()
