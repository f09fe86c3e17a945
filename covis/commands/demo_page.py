"""The page of `covis demo`: its runs side by side, in the world of the true cameras."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from covis.commands.demo import DENSE, SELF_ONLY, SPARSE
from covis.engines.regime import parse_schedule
from covis.evaluation.metrics.trajectory import align
from covis.runtime.scene.scene import Scene
from covis.runtime.scene.writers.finite import finite_part
from covis.runtime.scene.writers.glb import frusta
from covis.runtime.scene.writers.html import PageExtras, PageRun, comparison_page
from covis.runtime.scene.writers.options import OutputOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from covis.runtime.scene.geometry import Float64
    from covis.synthetic import RenderedScene

_NOTE = (
    "True ones are black (white on a dark page), estimated ones coloured, and moved by the "
    "similarity that fits their centres best. Rotation, translation: median errors of all pairs of "
    "views. Time: one measurement, on the machine that wrote this page; dense is 1."
)


def write_page(
    path: Path, scenes: Mapping[str, Scene], truth: RenderedScene, record: dict[str, Any]
) -> None:
    """Write a page with all runs, the true cameras and the true co-visibility.

    Each run is moved into the true world by the similarity that maps its camera centres to the true
    ones with the least squares, because a model's world has a frame and a scale of its own. Views
    without a finite camera in one of the runs are left out of all.

    Args:
        path: File to write.
        scenes: Scenes of the runs, by name; the page opens with the sparse one.
        truth: Rendered scene of the same views.
        record: Errors, shares of attention and seconds, by run (`covis.commands.demo.compare`).
    """
    usable = np.all([scene.usable_cameras() for scene in scenes.values()], axis=0)
    views = np.flatnonzero(usable)
    true = np.asarray(truth.extrinsics)[views]
    runs = [
        PageRun(
            _aligned(finite_part(scene.select(views))[0], true),
            name,
            _note(name, scene),
            _facts(name, record),
        )
        for name, scene in scenes.items()
    ]
    first = list(scenes).index(SPARSE)
    extras = PageExtras(
        note=_NOTE,
        covisibility=np.asarray(truth.covisibility)[np.ix_(views, views)],
        true_frusta=_true_frusta(runs[first].scene, truth, views),
    )
    text = comparison_page(runs, first, OutputOptions().conf_percentile, extras)
    path.write_text(text, encoding="utf-8")


def _aligned(scene: Scene, true: NDArray[np.float64]) -> Scene:
    """Return the scene in the world of the true cameras (M, 3, 4)."""
    similarity = align(scene.extrinsics, true)
    moved = None if scene.points is None else similarity.points(scene.points).astype(np.float32)
    return replace(
        scene,
        extrinsics=similarity.cameras(scene.extrinsics),
        depth=scene.depth * np.float32(similarity.scale),
        points=moved,
    )


def _true_frusta(scene: Scene, truth: RenderedScene, views: NDArray[np.int64]) -> Float64:
    """Return the frusta (M, 5, 3) of the true cameras."""
    height, width = np.asarray(truth.depth).shape[1:]
    scale = np.array([[scene.image_size[1] / width], [scene.image_size[0] / height], [1.0]])
    true = replace(
        scene,
        extrinsics=np.asarray(truth.extrinsics)[views],
        intrinsics=np.asarray(truth.intrinsics)[views] * scale,
    )
    return frusta(true, scene.point_cloud(percentile=50.0, stride=4)[0])


def _note(name: str, scene: Scene) -> str:
    """Return what a run computes, in one phrase."""
    if name == DENSE:
        return "patches attend to all views"
    if name == SELF_ONLY:
        return "patches attend to their view alone"
    assert scene.sparsity is not None and scene.layer_map is not None
    regimes = set(parse_schedule(scene.sparsity.schedule, len(scene.layer_map)))
    if len(regimes) == 1 and (anchors := regimes.pop().anchors):
        return f"patches attend to their view, similar ones and {anchors} anchors"
    return f"{scene.sparsity.selector}: layers {scene.sparsity.schedule.replace(':', ' ')}"


def _facts(name: str, record: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    error, seconds = record["camera_error"][name], record["seconds"]
    return (
        ("AUC@30", f"{100 * error['auc30']:.1f}"),
        ("AUC@5", f"{100 * error['auc5']:.1f}"),
        ("rotation", f"{error['rotation_median']:.1f}°"),
        ("translation", f"{error['translation_median']:.1f}°"),
        ("attention", f"{record['attention'][name]:.1%}"),
        ("time", f"{seconds[name] / seconds[DENSE]:.2f}"),
    )
