"""Engines against ONNX Runtime: the scene, and the aggregator's own outputs."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from covis.engines.options import BackendOptions, RunOptions, Sparsity
from covis.engines.system.ort_settings import import_onnxruntime
from covis.evaluation.compare.scenes import SceneErrors, scene_errors
from covis.evaluation.compare.stages import Side, compare_stages
from covis.runtime.photos.images import Images
from covis.runtime.pipeline import Pipeline, load
from tests.gpu.engine_checks import STRIPPED
from tests.gpu.engine_checks.place import CHUNK, Place, pictures
from tests.gpu.units import AbsentError

# Of the tiny bundle, float16 against float32 takes 0.42 of the first, 0.06 of the second and 0.13
# of the last; one layer that leaves out pairs takes at least 9 times the last, even where the scene
# hardly moves.
POSE_DEG, DEPTH_REL = 0.005, 2e-5
AGGREGATOR_REL_L2 = 5e-3
GPU_PROVIDERS = frozenset({"CUDAExecutionProvider", "TensorrtExecutionProvider"})
SETTINGS = {
    "dense": Sparsity(selector="dense"),
    "saliency": Sparsity(selector="saliency", layers="all"),
    "anchors": Sparsity(selector="anchors", layers="all", anchors=2, min_neighbours=0),
    "pooled": Sparsity(selector="pooled", layers="all", keep_ratio=0.5),
    "both": Sparsity(selector="both", layers="all", keep_ratio=0.5),
    "schedule": Sparsity(
        selector="anchors", schedule="0:self, 1:anchors=1, 2:dense, 3:saliency", min_neighbours=0
    ),
}


@dataclass(frozen=True)
class Verdict:
    """A candidate's run against the reference's.

    Attributes:
        scene: in degrees and relative depth.
        aggregator: relative L2 of each of the aggregator's outputs, end to end, by name.
        map_apart: the sum over layers of the differences of the two maps of frame pairs.
    """

    scene: SceneErrors
    aggregator: dict[str, float]
    map_apart: int

    @property
    def faults(self) -> tuple[str, ...]:
        """What is outside its tolerance, in words."""
        share = self.scene.drift.over(POSE_DEG, DEPTH_REL)
        found = [] if share <= 1.0 else [f"the scene is {share:.3g} times its tolerance apart"]
        found += [
            f"{name} of the aggregator is {error:.3g} apart"
            for name, error in self.aggregator.items()
            if not error <= AGGREGATOR_REL_L2  # NaN is never within
        ]
        if self.map_apart:
            found.append(f"the maps of frame pairs are {self.map_apart} levels apart")
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "scene": self.scene.as_dict(),
            "aggregator_rel_l2": self.aggregator,
            "map_apart": self.map_apart,
        }

    def demand(self) -> dict[str, Any]:
        """The numbers, for a check's detail; an AssertionError with all faults where there are."""
        assert not self.faults, (self.faults, self.as_dict())
        return self.as_dict()


def verdict(reference: Side, candidate: Side, images: Images) -> Verdict:
    """Run both sides, stage by stage, and compare."""
    stages, ours, theirs = compare_stages(reference, candidate, images, _quiet)
    errors = {error.tensor: (stage.stage, error) for stage in stages for error in stage.end_to_end}
    aggregator = {
        name: np.inf if error.non_finite else error.rel_l2
        for name, (stage, error) in errors.items()
        if stage.startswith("aggregator")
    }
    assert aggregator, "the aggregator's outputs were not compared"
    layers = reference.pipeline.bundle.manifest.model.global_layers
    apart = errors["pair_levels"][1].mean_abs * layers * len(images) ** 2
    return Verdict(scene_errors(ours, theirs), aggregator, round(apart))


def clear_tau(pipeline: Pipeline, images: Images) -> float:
    """A tau in the middle of the widest gap of the middle half of the scene's similarities.

    No pair is near it, so no rounding decides whether one is kept.
    """
    values = pipeline.run_stages(images, Sparsity(selector="dense"), _quiet)
    views = len(images)
    found = np.sort(values["similarity"][np.triu_indices(views, 1)].astype(np.float64))
    middle = found[len(found) // 4 : -(len(found) // 4)]
    at = int(np.argmax(np.diff(middle)))
    return float(middle[at : at + 2].mean())


def agreement(reference: Pipeline, candidate: Pipeline, images: Images) -> dict[str, Any]:
    """Every setting; an AssertionError where one of them is not within the tolerances."""
    found: dict[str, Any] = {}
    tau = clear_tau(reference, images)
    for name, setting in SETTINGS.items():
        chosen = replace(setting, tau=tau)
        found[name] = verdict(Side(reference, chosen), Side(candidate, chosen), images).demand()
    return found


def check_scene(place: Place) -> Any:
    """The scene of TensorRT is that of ONNX Runtime, for every selector and a schedule."""
    candidate = load(place.bundle, place.options())
    found = agreement(load(place.bundle, RunOptions(CHUNK)), candidate, pictures(place.bundle))
    assert candidate.backend.about()["backend"] == "tensorrt"
    return found


def check_stripped(place: Place) -> Any:
    """Plans without weights, filled in from the bundle when loaded, give the same scene."""
    sizes: dict[str, dict[str, int]] = {}
    for stage in STRIPPED:
        whole, stripped = (sorted(f.glob(f"{stage}-*.plan")) for f in (place.plans, place.stripped))
        assert stripped, f"no stripped plan of {stage} was built"
        assert whole, f"no whole plan of {stage} was built"
        sizes[stage] = {"whole": whole[0].stat().st_size, "stripped": stripped[0].stat().st_size}
        assert sizes[stage]["stripped"] < sizes[stage]["whole"], f"{stage} is larger: {sizes}"
    mixed = Path(tempfile.mkdtemp(dir=place.folder))
    others = [f for f in place.plans.glob("*.plan*") if f.name.split("-")[0] not in STRIPPED]
    for file in (*others, *place.stripped.glob("*.plan*")):
        shutil.copy(file, mixed)
    candidate = load(place.bundle, place.options(plans=mixed))
    reference = load(place.bundle, RunOptions(CHUNK))
    chosen = Sparsity(selector="dense")
    images = pictures(place.bundle)
    found = verdict(Side(reference, chosen), Side(candidate, chosen), images).demand()
    return {"bytes": sizes, **found}


def check_onnxruntime(place: Place) -> Any:
    """ONNX Runtime's GPU providers agree with its CPU provider.

    Raises:
        AbsentError: neither is installed.
    """
    providers = import_onnxruntime().get_available_providers()
    found: dict[str, Any] = {}
    for name, bundle, where in (
        ("CUDAExecutionProvider", place.wide, BackendOptions(backend="cuda")),
        ("TensorrtExecutionProvider", place.bundle,
         replace(place.options().backend, backend="ort-tensorrt")),
    ):  # fmt: skip
        if name not in providers:
            found[name] = "absent"
            continue
        reference = load(bundle, RunOptions(CHUNK))
        candidate = load(bundle, RunOptions(CHUNK, backend=where))
        found[name] = agreement(reference, candidate, pictures(bundle))
    if not GPU_PROVIDERS & set(providers):
        raise AbsentError("onnxruntime-gpu is not installed")
    return found


def _quiet(stage: str, done: int, total: int) -> None:
    pass
