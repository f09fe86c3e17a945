"""`covis demo`: a rendered scene, reconstructed by the shipped bundle, beside its true cameras.

The photos are reconstructed three times: with dense attention, with sparse attention, and with the
patches of every view attending to their own view alone. The last shows what a model knows without
comparing views, and so how much of its accuracy the pairs of views are worth. (Special tokens, such
as a view's camera token, attend to all views in every run: the sparse op never skips them.)
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from covis.commands.arguments import default
from covis.engines.errors import user_error
from covis.synthetic.cameras import Path as CameraPath
from covis.synthetic.scenes import Family

if TYPE_CHECKING:
    from collections.abc import Mapping

    from covis.engines.options import Sparsity
    from covis.evaluation.datasets.truth import GroundTruth
    from covis.runtime.pipeline import Pipeline, StageProgress
    from covis.runtime.scene.scene import Scene
    from covis.synthetic import RenderedScene

RECORD = "demo.json"
DENSE, SPARSE, SELF_ONLY = "dense", "sparse", "self only"
SEES = 0.05  # share of the surface that two views must have in common to count as seeing it
_PHOTO = re.compile(r"photos/view_[0-9]+\.jpg")
_PRINTED: Final = (30, 5)  # degrees; the record has all thresholds, and a narrow terminal these
_SIZE: Final = 224  # pixels of the photos
_VIEWS_OF_AN_ANCHOR: Final = 8  # one view in eight is an anchor
_FAMILY: Final[Family] = "room"
_PATH: Final[CameraPath] = "arc"


@dataclass(frozen=True)
class DemoCommand:
    """Render a scene and reconstruct it with dense, with sparse and without attention of views.

    The last run, in which patches attend to their own view alone, shows what the model knows
    without comparing views.

    Attributes:
        out: Folder to write: `photos`, `scene` and `demo.json`.
        views: Number of photos to render, from 2 to 200.
        family: Family of scenes. `studio` and `room` are rooms, `loop` is a corridor around a core,
            and `objects` is a pile of objects in a hall.
        path: Path of the cameras. `arc` and `orbit` look at the middle, from nearby and from far
            apart places; `loop` goes once around and looks ahead, so most pairs of views share
            nothing; `walk`, `turn` and `scatter` move, turn and jump.
        seed: Seed of the scene; the default scene was not used in training.
        bundle: Bundle to show.
        force: Replace the output folder if the demo wrote everything in it.
    """

    out: Path = Path("out/demo")
    views: int = 24
    family: Family = _FAMILY
    path: CameraPath = _PATH
    seed: Annotated[int | None, default("the first scene kept from training")] = None
    bundle: Annotated[Path | None, default("the one that ships with covis")] = None
    force: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.views <= 200:
            raise user_error(f"{self.views} is not in [2, 200]", where="--views", hint="use 24")


def demo_bundle() -> Path:
    """Return the folder of the bundle that ships with covis."""
    return Path(__file__).resolve().parent.parent / "assets" / "demo"


def training_record() -> dict[str, Any] | None:
    """Return the training record of that bundle; None where its weights were not trained."""
    path = demo_bundle().parent / "covis-mini.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def check_output(out: Path, *, force: bool) -> None:
    """Reject a place that cannot be written, and with `force` files that no demo wrote."""
    from covis.engines.system.atomic import check_folder_target
    from covis.engines.system.replace import check_own_files
    from covis.runtime.scene.writers import listed_files

    check_folder_target(out, force=force)
    scene = {f"scene/{name}" for name in listed_files(out / "scene")}
    check_own_files(
        out,
        lambda name: name == RECORD or name in scene or _PHOTO.fullmatch(name) is not None,
        "which the demo did not write",
    )


def demo(command: DemoCommand) -> None:
    """Render, reconstruct in three ways, write the sparse scene, and compare with the truth."""
    from rich.console import Console

    from covis.commands.demo_page import write_page
    from covis.commands.run import progress_bar, shown
    from covis.engines.system.atomic import atomic_folder
    from covis.runtime.pipeline import load
    from covis.runtime.scene.writers import write
    from covis.synthetic.photos import write_photos

    console = Console(stderr=True)
    check_output(command.out, force=command.force)
    pipeline = load(command.bundle or demo_bundle())
    folder = atomic_folder(command.out, force=command.force)
    with folder as scratch, progress_bar(console) as on_progress:
        on_progress("rendering", 0, 1)
        truth = render_truth(command.views, command.seed, command.path, command.family)
        photos = write_photos(scratch / "photos", truth)
        on_progress("rendering", 1, 1)
        scenes, seconds = reconstruct_each(pipeline, photos, on_progress)
        record = {"scene": _scene(command), **compare(scenes, truth, seconds)}
        on_progress("writing", 0, 1)
        write(scenes[SPARSE], scratch / "scene")
        write_page(scratch / "scene" / "scene.html", scenes, truth, record)
        (scratch / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        on_progress("writing", 1, 1)
    _print(console, record, own=command.bundle is None)
    for path in shown(sorted(p for p in command.out.rglob("*") if p.is_file())):
        print(path)


def render_truth(
    views: int, seed: int | None = None, path: CameraPath = _PATH, family: Family = _FAMILY
) -> RenderedScene:
    """Render a scene that was not used in training."""
    from covis.synthetic import HELD_OUT_SEEDS, SceneSpec, build, camera_path, render

    world = build(SceneSpec(HELD_OUT_SEEDS.start if seed is None else seed, family))
    return render(world, camera_path(world, views, path), _SIZE, _SIZE, shadows=False)


def _scene(command: DemoCommand) -> dict[str, Any]:
    from covis.synthetic import HELD_OUT_SEEDS

    seed = HELD_OUT_SEEDS.start if command.seed is None else command.seed
    return {"family": command.family, "path": command.path, "seed": seed}


def reconstruct_each(
    pipeline: Pipeline, photos: list[Path], on_progress: StageProgress
) -> tuple[dict[str, Scene], dict[str, float]]:
    """Reconstruct the photos with each setting: scenes and seconds, by the name of the run.

    Stages are loaded before the clock starts, on two photos.
    """
    import time

    chosen = settings(pipeline.bundle.manifest.sparsity, len(photos))
    images = pipeline.load_photos(photos)
    scenes: dict[str, Scene] = {}
    seconds: dict[str, float] = {}
    for sparsity in chosen.values():
        pipeline(photos[:2], sparsity=sparsity)
    for name, sparsity in chosen.items():
        begun = time.perf_counter()
        scenes[name] = pipeline(images, sparsity=sparsity, progress=on_progress)
        seconds[name] = time.perf_counter() - begun
    return scenes, seconds


def settings(sparsity: Sparsity, views: int) -> dict[str, Sparsity]:
    """Return the selector options of each run, by its name."""
    from dataclasses import replace

    alone = replace(sparsity, selector="anchors", schedule="all:self")
    return {
        DENSE: replace(sparsity, selector="dense"),
        SPARSE: sparse_setting(sparsity, views),
        SELF_ONLY: alone,
    }


def sparse_setting(sparsity: Sparsity, views: int) -> Sparsity:
    """Return the bundle's own sparse setting, or anchors in all layers where it has none.

    `auto` computes everything for so few views, and there would be nothing to compare. Anchors and
    most similar views are counted, so that the share of attention is known before the model runs.
    """
    from dataclasses import replace

    if sparsity.selector not in ("auto", "dense"):
        return sparsity
    anchors = max(1, views // _VIEWS_OF_AN_ANCHOR)
    return replace(sparsity, selector="anchors", schedule="", anchors=anchors, layers="all")


def compare(
    scenes: Mapping[str, Scene], truth: RenderedScene, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Return everything that the demo prints, for JSON."""
    import numpy as np

    from covis.commands.run import computed
    from covis.evaluation.accuracy.scoring import score_pose
    from covis.evaluation.metrics.pose import THRESHOLDS
    from covis.runtime.scene.writers.pair_maps import pair_maps

    known = _ground_truth(truth)
    dense, sparse = scenes[DENSE], scenes[SPARSE]
    assert sparse.sparsity is not None
    others = ~np.eye(len(sparse), dtype=bool)
    kept = np.any([each.level > 0 for each in pair_maps(sparse)], axis=0)[others]
    sees = (np.asarray(truth.covisibility) > SEES)[others]
    both = int((kept & sees).sum())
    aucs = (f"auc{threshold}" for threshold in THRESHOLDS)
    names = (*aucs, "rotation_median", "translation_median")
    errors = {
        name: {
            key: value for key, value in score_pose(scene.extrinsics, known).items() if key in names
        }
        for name, scene in scenes.items()
    }
    return {
        "views": len(sparse),
        "camera_error": errors,
        "drift": _drift(dense, sparse),
        "pairs": {
            "all": int(kept.size),
            "kept": int(kept.sum()),
            "truly_see": int(sees.sum()),
            "precision": both / max(int(kept.sum()), 1),
            "recall": both / max(int(sees.sum()), 1),
        },
        "attention": {
            name: 1.0 if scene.sparsity is None else scene.sparsity.attention_work
            for name, scene in scenes.items()
        },
        "sparse": computed(sparse.sparsity, len(sparse)),
        "sparse_layers": len(sparse.sparsity.layers),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "time_ratio": seconds[DENSE] / seconds[SPARSE],
    }


def _ground_truth(truth: RenderedScene) -> GroundTruth:
    import numpy as np

    from covis.evaluation.datasets.truth import GroundTruth, SceneRef

    images = np.round(np.asarray(truth.images).transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    return GroundTruth(
        scene=SceneRef("demo", "demo"),
        images=tuple(images),
        extrinsics=np.asarray(truth.extrinsics),
        frames=np.arange(len(images)),
        intrinsics=np.asarray(truth.intrinsics),
    )


def _drift(dense: Scene, sparse: Scene) -> dict[str, float]:
    """Return the change of the cameras by sparse attention, which needs no true cameras."""
    import numpy as np

    from covis.evaluation.metrics.pose import pair_errors

    rotation, translation = pair_errors(sparse.extrinsics, dense.extrinsics)
    return {
        "rotation_median": float(np.median(rotation)),
        "translation_median": float(np.median(translation)),
    }


def _print(console: Any, record: dict[str, Any], own: bool) -> None:
    """Print the errors, the pairs, the time, and the origin of the weights."""
    from rich.table import Table

    thresholds = (f"AUC@{threshold}" for threshold in _PRINTED)
    table = Table("", *thresholds, "rotation", "translation", "attention", "seconds")
    for name, error in record["camera_error"].items():
        angles = [f"{error[key]:.1f}°" for key in ("rotation_median", "translation_median")]
        aucs = [f"{100 * error[f'auc{t}']:.1f}" for t in _PRINTED]
        work = f"{record['attention'][name]:.1%}"
        table.add_row(name, *aucs, *angles, work, f"{record['seconds'][name]:.2f}")
    table.title = "Error against the true cameras (median of pairs)"
    console.print(table)
    pairs, drift = record["pairs"], record["drift"]
    lines = [
        f"sparse is {record['sparse']}",
        "self only: patches attend to their own view alone, so the model hardly compares views",
        f"without the truth: sparse moved the cameras by {drift['rotation_median']:.1f}°, "
        f"{drift['translation_median']:.1f}° from dense (median)",
        f"{record['views']} views, {pairs['all']} ordered pairs: {pairs['kept']} kept in "
        f"{record['sparse_layers']} sparse layers, {pairs['truly_see']} truly share over "
        f"{SEES:.0%} of the surface: precision {pairs['precision']:.1%}, "
        f"recall {pairs['recall']:.1%}",
        f"time dense / sparse: {record['time_ratio']:.2f}",
    ]
    if own:
        lines.append(weights_note())
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def weights_note() -> str:
    """Return one line on the origin and the purpose of the shipped weights."""
    record = training_record()
    if record is None:
        return "The weights of this bundle are random: its cameras and points mean nothing."
    training = record.get("training", {})
    runs = [*training.get("earlier_runs", []), training]
    return (
        f"covis-mini: {record.get('parameters', 0) / 1e6:.1f} M parameters, trained for "
        f"{sum(run.get('hours', 0) for run in runs):.1f} h on synthetic scenes alone; it is for "
        "showing and measuring sparsity, not for photos."
    )
