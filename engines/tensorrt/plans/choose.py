"""Built engines on disk: what is known of each, which one fits a run, and when one is refused.

A plan is executable: TensorRT does not check it, so nothing is deserialised here before its size
and sha256 are those of its record, and the digest is one that this user built or trusts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

from covis.engines.bundle.bundle import PLANS, Bundle
from covis.engines.bundle.manifest import Stage
from covis.engines.errors import CovisError, environment_error, user_error
from covis.engines.system.gpu import Gpu
from covis.engines.tensorrt.plans.record import BUILD_HINT, PlanRecord, Range, records
from covis.engines.tensorrt.plans.trust import own_plans


def read_plan(record: PlanRecord, folder: Path, trusted: Collection[str] = ()) -> memoryview:
    """The plan's bytes, once it is certain that they are what was built and that it is trusted.

    Args:
        record: from `find_plan` or `records`.
        folder: where record and plan lie.
        trusted: sha256 digests that the user trusts, besides the plans built by this user.

    Returns:
        A read-only view; the bytes were hashed after they were read, so no later change of the
        file can slip past the check.

    Raises:
        CovisError: missing, of another size or digest, or a plan that this user neither built
            nor trusts (exit code 2).
    """
    path = folder / record.file
    if record.sha256 not in trusted and record.sha256 not in own_plans():
        raise user_error(
            "was not built by this user, and a plan is executable code",
            where=path,
            hint=f"{BUILD_HINT}, or give --trust-plan {record.sha256}",
        )
    try:
        if path.is_symlink() or not path.is_file():
            raise user_error("is missing or no plain file", where=path, hint=BUILD_HINT)
        data = path.read_bytes()
    except OSError as error:
        raise environment_error(
            f"cannot be read ({error.strerror or error})", where=path, hint="check rights and disk"
        ) from error
    if len(data) != record.size:
        raise user_error(
            f"has {len(data):,} bytes where its record says {record.size:,}",
            where=path,
            hint=BUILD_HINT,
        )
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise user_error("is not what was built (sha256 differs)", where=path, hint=BUILD_HINT)
    return memoryview(data)


def mismatch(
    record: PlanRecord, bundle: Bundle, gpu: Gpu, tensorrt: str, plugin: str | None
) -> str | None:
    """Why a plan cannot be used here with this bundle, in words; None where nothing is wrong."""
    manifest = bundle.manifest
    digests = {file.path: file.sha256 for file in manifest.files}
    if record.graph != digests[manifest.stage(record.stage).graph]:
        return "it was built from another graph"
    if record.weights != digests[manifest.weights.file]:
        return "it was built from other weights"
    if record.tensorrt != tensorrt:
        return f"it was built by TensorRT {record.tensorrt}, here is {tensorrt}"
    if record.plugin is not None and record.plugin != plugin:
        return "it was built with another version of the plugin library"
    here, there = gpu.compute_capability, record.compute_capability
    portable = {"none": False, "ampere+": here >= (8, 0), "sameComputeCapability": here == there}
    if not portable[record.options.hardware_compatibility] and record.gpu != gpu.name:
        return f"it was built for {record.gpu}, here is {gpu.name}"
    if (record.cuda, record.driver_branch) != (gpu.cuda, gpu.driver_branch):
        return (
            f"it was built with driver {record.driver_branch} (CUDA {record.cuda}), here is "
            f"{gpu.driver_branch} (CUDA {gpu.cuda})"
        )
    return None


def find_plan(
    bundle: Bundle,
    stage: Stage,
    views: int,
    gpu: Gpu,
    *,
    tensorrt: str,
    plugin: str | None,
    folder: Path | None = None,
    trusted: Collection[str] = (),
) -> PlanRecord:
    """The plan of a stage whose profile is nearest to `views`.

    Among plans that hold `views`, the one tuned for the nearest number; for a `frames` stage, where
    none holds it, the one with the nearest range (run chunks of `record.views.clamp(views)`).

    Args:
        bundle: opened.
        stage: of the bundle.
        views: views M of a sequence stage, or frames N of a chunk.
        gpu: the one to run on.
        tensorrt: full version of the module in use.
        plugin: sha256 of the plugin library in use, None without one.
        folder: where the plans lie; the bundle's own `plans/` by default.
        trusted: digests of plans that may be used although they were built for another driver,
            GPU or plugin; one of another graph, weights or TensorRT never can.

    Raises:
        CovisError: none was built, all are refused (the reason of the nearest is told), or none
            holds so many views (exit code 2).
    """
    place = folder or bundle.path / PLANS
    mine = [record for record in records(place) if record.stage == stage.name]
    refused: list[tuple[PlanRecord, str]] = []
    fitting: list[PlanRecord] = []
    for record in mine:
        reason = mismatch(record, bundle, gpu, tensorrt, plugin)
        if reason is None or (record.sha256 in trusted and not reason.startswith(_NEVER)):
            fitting.append(record)
        else:
            refused.append((record, reason))
    if not fitting:
        raise _nothing_fits(bundle, stage, views, place, refused)
    best = min(fitting, key=lambda record: _distance(record.views, views))
    if stage.scope == "sequence" and views not in best.views:
        raise user_error(
            f"{views} views are outside the profile of every plan of this stage (nearest: "
            f"{best.views})",
            where=f"stage {stage.name}",
            hint=f"covis build {bundle.path} --stages {stage.name} "
            f"--views {min(views, best.views.min)}:{views}:{max(views, best.views.max)}",
        )
    return best


_NEVER = ("it was built from", "it was built by TensorRT")


def _distance(profile: Range, views: int) -> tuple[bool, int]:
    if views in profile:
        return False, abs(profile.opt - views)
    return True, abs(profile.clamp(views) - views)


def _nothing_fits(
    bundle: Bundle,
    stage: Stage,
    views: int,
    place: Path,
    refused: list[tuple[PlanRecord, str]],
) -> CovisError:
    cure = f"covis build {bundle.path} --stages {stage.name}"
    if not refused:
        return user_error("has no plan", where=f"stage {stage.name}", hint=cure)
    record, reason = min(refused, key=lambda pair: _distance(pair[0].views, views))
    return user_error(f"is refused: {reason}", where=place / record.file, hint=cure)
