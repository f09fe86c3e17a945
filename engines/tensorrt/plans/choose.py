"""Choice of the plan that a stage runs: the accepted one with the nearest profile."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from covis.engines.bundle.bundle import Bundle
from covis.engines.bundle.folder import PLANS
from covis.engines.bundle.manifest import Stage
from covis.engines.errors import CovisError, user_error
from covis.engines.system.gpu import Gpu
from covis.engines.tensorrt.plans.record import PlanRecord, Range, records
from covis.engines.tensorrt.plans.trust import Host, Mismatch, accepted, explain, mismatches


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
    """Find the plan of a stage whose profile is nearest to `views`.

    Among the plans whose range contains `views`, the one tuned for the nearest number wins. If no
    range contains it, a `frames` stage takes the plan with the nearest range, because it can run
    chunks of `record.views.clamp(views)` frames; a `sequence` stage cannot, and an error is raised.

    Args:
        bundle: Opened bundle.
        stage: Stage of that bundle.
        views: Number of views M of a sequence stage, or of frames N in a chunk.
        gpu: GPU to run on.
        tensorrt: Full version of the `tensorrt` module in use.
        plugin: sha256 of the plugin library in use; None without one.
        folder: Folder of the plans; default: `plans/` inside the bundle.
        trusted: sha256 digests of plans that may be used in spite of a mismatch which
            `Mismatch.trust_overrides` allows.

    Raises:
        CovisError: No plan was built, all are refused (the message contains the reason of the
            nearest), or no range contains so many views (exit code 2).
    """
    place = folder or bundle.path / PLANS
    host = Host(gpu, tensorrt, plugin)
    refused: list[tuple[PlanRecord, Mismatch]] = []
    usable: list[PlanRecord] = []
    for record in records(place):
        if record.stage != stage.name:
            continue
        found = mismatches(record, bundle, host)
        if accepted(record, found, trusted):
            usable.append(record)
        else:
            refused.append((record, found[0]))
    if not usable:
        raise _nothing_usable(bundle, stage, views, place, host, refused)
    best = min(usable, key=lambda record: _distance(record.views, views))
    if stage.scope == "sequence" and views not in best.views:
        raise user_error(
            f"{views} views are outside the profile of every plan of this stage (nearest: "
            f"{best.views})",
            where=f"stage {stage.name}",
            hint=f"covis build {bundle.path} --stages {stage.name} "
            f"--views {min(views, best.views.min)}:{views}:{max(views, best.views.max)}",
        )
    return best


def _distance(profile: Range, views: int) -> tuple[bool, int]:
    if views in profile:
        return False, abs(profile.opt - views)
    return True, abs(profile.clamp(views) - views)


def _nothing_usable(
    bundle: Bundle,
    stage: Stage,
    views: int,
    place: Path,
    host: Host,
    refused: list[tuple[PlanRecord, Mismatch]],
) -> CovisError:
    cure = f"covis build {bundle.path} --stages {stage.name}"
    if not refused:
        return user_error("has no plan", where=f"stage {stage.name}", hint=cure)
    record, mismatch = min(refused, key=lambda pair: _distance(pair[0].views, views))
    reason = explain(mismatch, record, host)
    return user_error(f"is refused: {reason}", where=place / record.file, hint=cure)
