"""`covis tune`: the cheapest sparsity for a set of photos, within a bound on the drift."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from covis.commands.arguments import BundlePath, ChoiceArguments, MeasureArguments, Photos
from covis.engines.errors import user_error
from covis.engines.options import RunOptions
from covis.runtime.photos.options import PhotoOptions

if TYPE_CHECKING:
    from rich.table import Table

    from covis.engines.bundle.manifest import Tuning
    from covis.engines.options import Sparsity
    from covis.evaluation.sweep.tune import Candidate, Outcome, Trial
    from covis.runtime.pipeline import Pipeline


@dataclass(frozen=True)
class TuneCommand:
    """Find the cheapest sparsity that keeps a scene's cameras and depth near the dense result.

    Attributes:
        bundle: Bundle to tune: a folder that `covis export` wrote. The result goes into its
            manifest.
        photos: Folder of photos and videos, or the files themselves.
        max_drift: Largest change of any camera from the dense result, in degrees, such as
            "0.5deg".
        max_depth_drift: Largest mean relative change of any view's depth, such as "1%" or 0.01.
        views: Number of photos to tune on, evenly spread, 2 or more; as many others check the
            result.
        dry_run: Print the result without changing the bundle.
        choice: Photos and video frames to tune on and to check with.
        run: How the stages run, and in which backend.
    """

    bundle: BundlePath
    photos: Photos
    max_drift: str = "0.5deg"
    max_depth_drift: str = "1%"
    views: int = 24
    dry_run: bool = False
    choice: ChoiceArguments = field(default_factory=PhotoOptions)
    run: MeasureArguments = field(default_factory=RunOptions)

    def __post_init__(self) -> None:
        checked_bounds(self.views, self.max_drift, self.max_depth_drift)


def checked_bounds(views: int, max_drift: str, max_depth_drift: str) -> tuple[float, float]:
    """Return the bounds on the pose drift, in degrees, and on the depth drift, as a fraction.

    Raises:
        CovisError: A bound cannot be read, or there are fewer than two views to measure on.
    """
    if views < 2:
        raise user_error(f"{views} is below 2", where="--views", hint="use 8 or more")
    return degrees(max_drift), share(max_depth_drift)


def degrees(text: str) -> float:
    """Read a number of degrees from "0.5deg", "0.5°" or "0.5"."""
    return _number(text, r"(?:deg|°)?", "--max-drift", 'write e.g. "0.5deg"', 180.0)


def share(text: str) -> float:
    """Read a share from "1%" or "0.01"."""
    percent = text.strip().endswith("%")
    value = _number(text, "%?", "--max-depth-drift", 'write e.g. "1%"', 1e6)
    return value / 100 if percent else value


def _number(text: str, unit: str, where: str, hint: str, most: float) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*" + unit + r"\s*", text)
    if match is None or not 0.0 < float(match[1]) <= most:
        raise user_error(f"{text!r} is no positive bound", where=where, hint=hint)
    return float(match[1])


def tune(command: TuneCommand) -> None:
    """Tune, print the result, and write it into the manifest."""
    from rich.console import Console

    from covis.commands.run import named, progress_bar, warn
    from covis.engines.bundle.folder import MANIFEST
    from covis.engines.system.atomic import check_file_target
    from covis.evaluation.sweep.tune import Tuner
    from covis.runtime.photos.selection import select_photos
    from covis.runtime.pipeline import load

    console = Console(stderr=True)
    with console.status("checking the bundle"):
        pipeline = load(command.bundle, command.run)
    if not command.dry_run:
        check_file_target(command.bundle / MANIFEST)
    selection = select_photos(named(command.photos), command.choice)
    warn(console, selection.notes)
    pose, depth = checked_bounds(command.views, command.max_drift, command.max_depth_drift)
    with progress_bar(console) as progress:

        def on_candidate(candidate: Candidate, number: int, total: int) -> None:
            progress("settings", number + 1, total)

        tuner = Tuner(pipeline, pose, depth, on_candidate, skip_bad=command.choice.skip_bad)
        outcome = tuner(selection.photos, command.views)
    _print(pipeline, outcome, pose, depth)
    sparsity, receipt = conclusion(pipeline, outcome, pose, depth)
    if command.dry_run:
        print("the bundle is unchanged (--dry-run)")
        return
    write(pipeline, sparsity, receipt)
    print(command.bundle / "manifest.json")


def conclusion(
    pipeline: Pipeline, outcome: Outcome, pose: float, depth: float
) -> tuple[Sparsity, Tuning]:
    """Return the options to write, and the receipt.

    The options are dense where no setting stays within the bounds.
    """
    from dataclasses import replace

    from covis.engines.bundle.manifest import Tuning
    from covis.engines.version import __version__

    bundle, best = pipeline.bundle, outcome.best
    dense = replace(bundle.manifest.sparsity, selector="dense", schedule="")
    check = best.check if best is not None else None
    drifts = (best.drift if best is not None else None, check)
    measured = [drift for drift in drifts if drift is not None]
    receipt = Tuning(
        covis_version=__version__,
        tuned_manifest=bundle.digest(),
        views=outcome.views,
        checked_views=outcome.checked if check is not None else 0,
        tried=len(outcome.trials),
        max_pose_drift=pose,
        max_depth_drift=depth,
        pose_drift=max((d.pose_deg for d in measured), default=0.0),
        depth_drift=max((d.depth_rel for d in measured), default=0.0),
        attention_work=1.0 if best is None else best.work,
        time_ratio=1.0 if best is None else outcome.seconds_dense / best.seconds,
    )
    return (dense if best is None else best.sparsity), receipt


def write(pipeline: Pipeline, sparsity: Sparsity, receipt: Tuning) -> None:
    """Write options and receipt into the bundle's manifest, completely or not at all."""
    from covis.engines.bundle.bundle import rewrite_manifest

    bundle = pipeline.bundle
    update = {"sparsity": sparsity, "tuning": receipt}
    rewrite_manifest(bundle, bundle.manifest.model_copy(update=update))


def _print(pipeline: Pipeline, outcome: Outcome, pose: float, depth: float) -> None:
    """Print the trials as a table, and the result in a line."""
    from rich.console import Console

    layers = pipeline.bundle.manifest.model.global_layers
    console = Console()
    console.print(trial_table(outcome, layers, pose, depth))
    line = f"dense only: none of {len(outcome.trials)} settings stays within the bounds"
    if outcome.best is not None:
        line = result_line(outcome.best, outcome, layers, pose, depth)
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def trial_table(outcome: Outcome, layers: int, pose: float, depth: float) -> Table:
    """Return the trials as a table; those within the bounds are bold.

    Args:
        outcome: Trials of a search.
        layers: Number of global layers of the model.
        pose: Bound on the pose drift, in degrees.
        depth: Bound on the depth drift, as a fraction.
    """
    from rich.table import Table

    table = Table("selector", box=None)
    table.add_column("schedule", overflow="fold")
    for column in ("computed", "camera\ndrift", "depth\ndrift", "time\ndense / it"):
        table.add_column(column, justify="right", no_wrap=True)
    for trial in outcome.trials:
        worst = [trial.drift] + ([trial.check] if trial.check is not None else [])
        table.add_row(
            trial.sparsity.selector,
            schedule_text(trial.sparsity, layers),
            f"{trial.work:.1%}",
            f"{max(d.pose_deg for d in worst):.3g}°",
            f"{max(d.depth_rel for d in worst):.2%}",
            f"{outcome.seconds_dense / trial.seconds:.2f}",
            style="bold" if trial.within(pose, depth) else None,
        )
    return table


def result_line(best: Trial, outcome: Outcome, layers: int, pose: float, depth: float) -> str:
    """Return the line that names the chosen setting, its work, and the photos it was run on."""
    checked = f", checked on {outcome.checked} other photos" if best.check is not None else ""
    return (
        f"{best.sparsity.selector}, layers {schedule_text(best.sparsity, layers)}: {best.work:.1%} "
        f"of global attention, within {pose:g}° and {depth:.2%} of dense on {outcome.views} photos"
        f"{checked}"
    )


def schedule_text(sparsity: Sparsity, layers: int) -> str:
    """Return the regime of every global layer as the text of a schedule."""
    from covis.engines.regime import format_schedule
    from covis.engines.schedule import layer_regimes

    return format_schedule(layer_regimes(sparsity, layers))
