"""Compare the selectors on one set of photos: work, time, and distance from the dense result.

    python examples/compare_selectors.py BUNDLE PHOTOS
    python examples/compare_selectors.py               # the shipped bundle, rendered photos

`covis sweep` and `covis tune` do this thoroughly; this shows how little code it takes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

import covis

SHIPPED_BUNDLE = Path(covis.__file__).parent / "assets" / "demo"
SETTINGS = {
    "dense": covis.Sparsity(selector="dense"),
    "saliency, tau 0.9": covis.Sparsity(selector="saliency", tau=0.9, layers="all"),
    "saliency, tau 0.6": covis.Sparsity(selector="saliency", tau=0.6, layers="all"),
    "anchors, 6 views": covis.Sparsity(selector="anchors", anchors=6),
    "anchors, 3 views": covis.Sparsity(selector="anchors", anchors=3),
    "pooled, 25 %": covis.Sparsity(selector="pooled", keep_ratio=0.25, layers="all"),
    "both": covis.Sparsity(selector="both", tau=0.6, keep_ratio=0.25, layers="all"),
}


def largest_turn(one: covis.Scene, other: covis.Scene) -> float:
    """The largest angle, over all pairs of views, between the relative rotations; in degrees."""
    i, j = np.triu_indices(len(one), 1)
    first, second = (scene.extrinsics[:, :, :3] for scene in (one, other))
    between = (first[j] @ first[i].transpose(0, 2, 1)) @ (
        second[j] @ second[i].transpose(0, 2, 1)
    ).transpose(0, 2, 1)
    cosine = (np.trace(between, axis1=1, axis2=2) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).max())


def main() -> None:
    """Run each setting on the same pipeline and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", nargs="?", type=Path, default=SHIPPED_BUNDLE)
    parser.add_argument("photos", nargs="?", type=Path)
    arguments = parser.parse_args()
    photos = arguments.photos
    if photos is None:
        from covis.synthetic import demo_scene, write_photos

        photos = Path(tempfile.mkdtemp(prefix="covis-example-")) / "photos"
        write_photos(photos, demo_scene(12, 192, 192, family="studio"))
    pipeline = covis.load(arguments.bundle)
    dense = None
    print(f"{'setting':<20}{'attention computed':>20}{'largest turn':>14}{'seconds':>9}")
    for name, sparsity in SETTINGS.items():
        pipeline(photos, sparsity=sparsity)  # load the stages before the clock starts
        begun = time.perf_counter()
        scene = pipeline(photos, sparsity=sparsity)
        seconds = time.perf_counter() - begun
        dense = dense or scene
        computed = scene.sparsity.attention_work if scene.sparsity else 1.0
        turn = largest_turn(scene, dense)
        print(f"{name:<20}{computed:>20.1%}{turn:>13.2f}°{seconds:>9.2f}")


if __name__ == "__main__":
    main()
