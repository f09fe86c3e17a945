"""`covis demo`: reconstruct a synthetic scene with the shipped bundle, and measure the error."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from covis.commands.arguments import default
from covis.engines.errors import user_error

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from covis.engines.options import Sparsity
    from covis.evaluation.datasets.truth import GroundTruth
    from covis.runtime.pipeline import Pipeline, StageProgress
    from covis.runtime.scene.scene import Scene
    from covis.synthetic import RenderedScene

RECORD = "demo.json"
_PHOTO = re.compile(r"photos/view_[0-9]+\.jpg")
SEES = 0.05  # share of the surface that two views must have in common to count as seeing it
_SIZE = 224  # pixels of the photos
CameraPath = Literal["loop", "orbit", "walk", "turn", "scatter"]


@dataclass(frozen=True)
class DemoCommand:
    """Render a small scene and run the bundle that ships with covis on its photos.

    Attributes:
        out: Folder to write: `photos`, `scene` and `demo.json`.
        views: Number of photos to render, from 2 to 200.
        path: Path of the cameras. `loop` goes once around the room and looks ahead, so most pairs
            of views share nothing.
        seed: Seed of the scene; the default scene was not used in training.
        bundle: Bundle to show.
        force: Replace the output folder if the demo wrote everything in it.
    """

    out: Path = Path("out/demo")
    views: int = 24
    path: CameraPath = "loop"
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
    """Render, reconstruct dense and sparse, write, and compare with the true scene."""
    from rich.console import Console

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
        truth = render_truth(command.views, command.seed, command.path)
        photos = write_photos(scratch / "photos", truth)
        on_progress("rendering", 1, 1)
        dense, sparse, seconds = both_ways(pipeline, photos, on_progress)
        record = compare(dense, sparse, truth, seconds)
        on_progress("writing", 0, 1)
        write(sparse, scratch / "scene")
        _write_page(scratch / "scene" / "scene.html", sparse, truth, record)
        (scratch / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        on_progress("writing", 1, 1)
    _print(console, record, own=command.bundle is None)
    for path in shown(sorted(p for p in command.out.rglob("*") if p.is_file())):
        print(path)


def render_truth(views: int, seed: int | None = None, path: CameraPath = "loop") -> RenderedScene:
    """Render a room that was not used in training.

    On a loop, neighbouring views overlap and opposite ones do not.
    """
    from covis.synthetic import HELD_OUT_SEEDS, SceneSpec, build, camera_path, render

    world = build(SceneSpec(HELD_OUT_SEEDS.start if seed is None else seed, "studio"))
    return render(world, camera_path(world, views, path), _SIZE, _SIZE, shadows=False)


def both_ways(
    pipeline: Pipeline, photos: list[Path], on_progress: StageProgress
) -> tuple[Scene, Scene, dict[str, float]]:
    """Reconstruct with dense and with sparse attention: scenes, and seconds of each.

    Stages are loaded before the clock starts, on two photos.
    """
    import time
    from dataclasses import replace

    sparse = sparse_setting(pipeline.bundle.manifest.sparsity)
    dense = replace(sparse, selector="dense")
    scenes, seconds = [], {}
    pipeline(photos[:2], sparsity=dense)
    pipeline(photos[:2], sparsity=sparse)
    for name, sparsity in (("dense", dense), ("sparse", sparse)):
        begun = time.perf_counter()
        scenes.append(pipeline(photos, sparsity=sparsity, progress=on_progress))
        seconds[name] = time.perf_counter() - begun
    return scenes[0], scenes[1], seconds


def sparse_setting(sparsity: Sparsity) -> Sparsity:
    """Return the bundle's own sparse setting, or pairs of similar views where it has none.

    `auto` computes everything for so few views, and there would be nothing to compare.
    """
    from dataclasses import replace

    if sparsity.selector not in ("auto", "dense"):
        return sparsity
    return replace(
        sparsity, selector="saliency", schedule="", tau=0.9, layers="all", min_neighbours=2
    )


def compare(
    dense: Scene, sparse: Scene, truth: RenderedScene, seconds: dict[str, float]
) -> dict[str, Any]:
    """Return everything that the demo prints, for JSON."""
    import numpy as np

    from covis.commands.run import computed
    from covis.evaluation.accuracy.scoring import score_pose
    from covis.evaluation.metrics.pose import THRESHOLDS
    from covis.runtime.scene.writers.pair_maps import pair_maps

    known = _ground_truth(truth)
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
        for name, scene in (("dense", dense), ("sparse", sparse))
    }
    return {
        "views": len(sparse),
        "camera_error": errors,
        "drift": _drift(dense, sparse, known),
        "pairs": {
            "all": int(kept.size),
            "kept": int(kept.sum()),
            "truly_see": int(sees.sum()),
            "precision": both / max(int(kept.sum()), 1),
            "recall": both / max(int(sees.sum()), 1),
        },
        "sparse": computed(sparse.sparsity, len(sparse)),
        "sparse_layers": len(sparse.sparsity.layers),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "time_ratio": seconds["dense"] / seconds["sparse"],
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


def _drift(dense: Scene, sparse: Scene, known: GroundTruth) -> dict[str, float]:
    """Return the change of the cameras by sparse attention, which needs no true cameras."""
    import numpy as np

    from covis.evaluation.metrics.pose import pair_errors

    rotation, translation = pair_errors(sparse.extrinsics, dense.extrinsics)
    return {
        "rotation_median": float(np.median(rotation)),
        "translation_median": float(np.median(translation)),
    }


def _write_page(path: Path, scene: Scene, truth: RenderedScene, record: dict[str, Any]) -> None:
    """Write the scene's page again, with the errors, true cameras and true co-visibility."""
    import numpy as np

    from covis.runtime.scene.writers.finite import finite_part
    from covis.runtime.scene.writers.html import PageExtras, page
    from covis.runtime.scene.writers.options import OutputOptions

    kept, _ = finite_part(scene)
    views = np.flatnonzero(scene.usable_cameras())
    errors = record["camera_error"]
    facts = (
        ("camera error, dense", _degrees(errors["dense"])),
        ("camera error, sparse", _degrees(errors["sparse"])),
        ("time dense / sparse", f"{record['time_ratio']:.2f}"),
    )
    seen = np.asarray(truth.covisibility)[np.ix_(views, views)]
    extras = PageExtras(facts, seen, _true_frusta(kept, truth, views))
    path.write_text(page(kept, OutputOptions().conf_percentile, extras), encoding="utf-8")


def _true_frusta(
    scene: Scene, truth: RenderedScene, views: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the frusta of the true cameras, aligned to the scene by their centres."""
    from dataclasses import replace

    import numpy as np

    from covis.evaluation.metrics.trajectory import align
    from covis.runtime.scene.writers.glb import frusta

    true = np.asarray(truth.extrinsics)[views]
    moved = align(true, scene.extrinsics).cameras(true)
    xyz, *_ = scene.point_cloud(percentile=50.0, stride=4)
    scale = np.array([[scene.image_size[1] / _SIZE], [scene.image_size[0] / _SIZE], [1.0]])
    intrinsics = np.asarray(truth.intrinsics)[views] * scale
    return frusta(replace(scene, extrinsics=moved, intrinsics=intrinsics), xyz)


def _degrees(errors: dict[str, float]) -> str:
    return f"{errors['rotation_median']:.1f}°, {errors['translation_median']:.1f}°"


def _print(console: Any, record: dict[str, Any], own: bool) -> None:
    """Print the errors, the pairs, the time, and the origin of the weights."""
    from rich.table import Table

    from covis.evaluation.metrics.pose import THRESHOLDS

    thresholds = (f"AUC@{threshold}" for threshold in THRESHOLDS)
    table = Table("", *thresholds, "rotation", "translation", "seconds")
    for name in ("dense", "sparse"):
        error = record["camera_error"][name]
        angles = [f"{error[key]:.1f}°" for key in ("rotation_median", "translation_median")]
        aucs = [f"{100 * error[f'auc{t}']:.1f}" for t in THRESHOLDS]
        table.add_row(name, *aucs, *angles, f"{record['seconds'][name]:.2f}")
    table.title = "Error against the true cameras (median of pairs)"
    console.print(table)
    pairs, drift = record["pairs"], record["drift"]
    lines = [
        f"sparse is {record['sparse']}",
        f"without the truth: sparse moved the cameras by {_degrees(drift)} from dense (median)",
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
    return (
        f"covis-mini: {record.get('parameters', 0) / 1e6:.1f} M parameters, trained for "
        f"{training.get('hours', 0):.1f} h on synthetic scenes alone; it is for showing and "
        "measuring sparsity, not for photos."
    )
