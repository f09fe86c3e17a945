"""`covis profile`: effect of each regime in each global layer, and the schedule that follows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from covis.commands.arguments import (
    BundlePath,
    ChoiceArguments,
    MeasureArguments,
    Photos,
    default,
)
from covis.commands.tune import checked_bounds, conclusion, result_line, trial_table, write
from covis.engines.errors import CovisError, user_error
from covis.engines.options import RunOptions
from covis.engines.regime import Regime, parse_regime
from covis.runtime.photos.options import PhotoOptions

if TYPE_CHECKING:
    from rich.table import Table

    from covis.evaluation.sweep.profile import Effect
    from covis.evaluation.sweep.tune import Outcome
    from covis.runtime.photos.decode import Photo
    from covis.runtime.pipeline import Pipeline, StageProgress


@dataclass(frozen=True)
class ProfileCommand:
    """Measure sparse attention layer by layer on photos, and propose a schedule of layers.

    Attributes:
        bundle: Bundle to profile: a folder that `covis export` wrote.
        photos: Folder of photos and videos, or the files themselves.
        max_drift: Largest change of any camera from the dense result that the proposed schedule
            may cause, in degrees, such as "0.5deg".
        max_depth_drift: Largest mean relative change of any view's depth, such as "1%" or 0.01.
        views: Number of photos to measure on, evenly spread, 2 or more; as many others check the
            proposed schedule.
        regimes: Regimes to measure in each layer, as in a schedule, such as "self anchors=10
            saliency=0.9". Each takes one run of the model for every global layer.
        out: Folder for `profile.json` and `profile.png`; the picture requires covis[view].
        write: Write the proposed schedule into the bundle's manifest.
        choice: Photos and video frames to measure and to check on.
        run: How the stages run; single layers are seen in ONNX Runtime, so in the backends cpu
            and cuda.
    """

    bundle: BundlePath
    photos: Photos
    max_drift: str = "0.5deg"
    max_depth_drift: str = "1%"
    views: int = 24
    regimes: tuple[str, ...] = ("self", "anchors=5", "anchors=10")
    out: Annotated[Path | None, default("no files")] = None
    write: bool = False
    choice: ChoiceArguments = field(default_factory=PhotoOptions)
    run: MeasureArguments = field(default_factory=RunOptions)

    def __post_init__(self) -> None:
        checked_bounds(self.views, self.max_drift, self.max_depth_drift)
        read_regimes(self.regimes)
        if self.run.backend.backend not in ("cpu", "cuda"):
            raise user_error(
                "does not show single layers",
                where=f"--backend {self.run.backend.backend}",
                hint="use cpu or cuda; the schedule serves every backend",
            )

    @property
    def bounds(self) -> tuple[float, float]:
        """Bounds on the pose drift, in degrees, and on the depth drift, as a fraction."""
        return checked_bounds(self.views, self.max_drift, self.max_depth_drift)


def read_regimes(texts: Sequence[str]) -> tuple[Regime, ...]:
    """Read regimes from the words of the command line.

    Raises:
        CovisError: A regime is unknown, or its number is out of range.
    """
    try:
        return tuple(parse_regime(text.replace(" ", "")) for text in texts)
    except CovisError as error:
        hint = "use e.g. self, saliency=0.9, anchors=10, pooled=0.25 or anchors=10+pooled=0.25"
        raise error.replaced(where="--regimes", hint=hint) from error


def profile(command: ProfileCommand) -> None:
    """Measure, print the effects and the proposed schedule, and write what was asked for."""
    from rich.console import Console

    from covis.commands.run import named, progress_bar, warn
    from covis.engines.bundle.folder import MANIFEST
    from covis.engines.system.atomic import check_file_target
    from covis.evaluation.sweep.tune import subsets
    from covis.runtime.photos.selection import select_photos
    from covis.runtime.pipeline import load

    _check_out(command.out)
    console = Console(stderr=True)
    with console.status("checking the bundle"):
        pipeline = load(command.bundle, command.run)
    if command.write:
        check_file_target(command.bundle / MANIFEST)
    selection = select_photos(named(command.photos), command.choice)
    warn(console, selection.notes)
    photos = subsets(selection.photos, command.views)
    with progress_bar(console) as progress:
        found = _measure(command, pipeline, photos, progress)
    warn(console, found.notes)
    _print(found, command.bounds)
    if command.out is not None:
        for path in _write_files(command, pipeline, found):
            print(path)
    if command.write:
        write(pipeline, *conclusion(pipeline, found.outcome, *command.bounds))
        print(command.bundle / MANIFEST)


def _check_out(out: Path | None) -> None:
    """Refuse a folder that cannot be written, or a missing package, before the work."""
    from covis.evaluation.accuracy.results import check_results_folder
    from covis.evaluation.sweep.pictures import pyplot

    if out is not None:
        check_results_folder(out, "profile.json", "profile")
        pyplot()


@dataclass(frozen=True)
class _Found:
    """Effects of the regimes, and the search for a schedule.

    Attributes:
        effects: Effect of each regime in each layer.
        outcome: Schedules that were run, and the best of them.
        notes: Regimes that were not measured, and photos that were passed over.
        names: Names of the photos.
        layers: Number of global layers L.
    """

    effects: list[Effect]
    outcome: Outcome
    notes: tuple[str, ...]
    names: tuple[str, ...]
    layers: int

    def proposed(self) -> tuple[Regime, ...]:
        """Return the regime of each layer in the proposed schedule; dense where there is none."""
        from covis.engines.schedule import layer_regimes

        best = self.outcome.best
        return (
            (Regime(),) * self.layers if best is None else layer_regimes(best.sparsity, self.layers)
        )


def _measure(
    command: ProfileCommand,
    pipeline: Pipeline,
    photos: tuple[Sequence[Photo], Sequence[Photo]],
    progress: StageProgress,
) -> _Found:
    """Measure the regimes on the first photos, and search a schedule that fits the others too."""
    from covis.evaluation.sweep.encoded import EncodedViews
    from covis.evaluation.sweep.profile import layer_effects, measurable, with_schedule
    from covis.evaluation.sweep.propose import propose

    model, base = pipeline.bundle.manifest.model, pipeline.bundle.manifest.sparsity
    options, given = PhotoOptions(skip_bad=command.choice.skip_bad), read_regimes(command.regimes)
    images = pipeline.load_photos(photos[0], options, progress)
    warm = EncodedViews(pipeline, pipeline.load_photos(images.sources[:2]))
    for regime in (Regime(), *given):  # loads the stages, so that no time contains it
        warm.run(with_schedule(base, [regime] * model.global_layers))
    views = EncodedViews(pipeline, images, progress)
    regimes, notes = measurable(given, base, views.dense[0], model.reference_view)
    effects = layer_effects(views, regimes, base, lambda n, all_: progress("layers", n, all_))
    others = pipeline.load_photos(photos[1], options, progress) if photos[1] else None
    checks = None if others is None else EncodedViews(pipeline, others)
    outcome = propose(
        effects, views, checks, base, command.bounds, lambda n, all_: progress("schedules", n, all_)
    )
    return _Found(effects, outcome, (*images.notes, *notes), images.names, model.global_layers)


def _print(found: _Found, bounds: tuple[float, float]) -> None:
    """Print the effects by layer, the schedules that were run, and the proposed one."""
    from rich.console import Console

    console = Console()
    console.print("alone in its layer: change of the layer's attention, camera drift, depth drift")
    console.print(_effect_table(found))
    best, outcome = found.outcome.best, found.outcome
    if outcome.trials:
        console.print(trial_table(outcome, found.layers, *bounds))
    line = "dense only: no schedule of these regimes stays within the bounds"
    if best is not None:
        line = result_line(best, outcome, found.layers, *bounds)
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _effect_table(found: _Found) -> Table:
    from rich.table import Table

    regimes = dict.fromkeys(str(effect.regime) for effect in found.effects)
    cells = {(e.layer, str(e.regime)): e for e in found.effects}
    table = Table("layer", box=None)
    for regime in (*regimes, "proposed"):
        table.add_column(regime, no_wrap=True)
    for layer, proposed in enumerate(found.proposed()):
        own = (cells[layer, regime] for regime in regimes)
        table.add_row(str(layer), *(_figures(effect) for effect in own), str(proposed))
    return table


def _figures(effect: Effect) -> str:
    drift = effect.drift
    return f"{effect.change:.0%} {drift.pose_deg:.2g}° {drift.depth_rel:.2%}"


def _write_files(command: ProfileCommand, pipeline: Pipeline, found: _Found) -> tuple[Path, ...]:
    """Write `profile.json` and `profile.png`; return their paths."""
    from covis.evaluation.accuracy.results import write_result
    from covis.evaluation.sweep.pictures import draw_profile
    from covis.evaluation.sweep.propose import trial_row

    assert command.out is not None
    sparsity, record = conclusion(pipeline, found.outcome, *command.bounds)
    proposed = [str(regime) for regime in found.proposed()]
    rows = [effect.row() for effect in found.effects]
    report = {
        "bundle": pipeline.bundle.digest(),
        **pipeline.backend.about(),
        "photos": found.names,
        "layers": rows,
        "trials": [trial_row(trial, found.layers) for trial in found.outcome.trials],
        "proposed": proposed,
        "sparsity": asdict(sparsity),
        "record": record.model_dump(),
    }
    written = command.out / "profile.json"
    write_result(written, json.dumps(report, indent=1, allow_nan=False) + "\n")
    return written, draw_profile(rows, proposed, command.bounds, command.out / "profile.png")
