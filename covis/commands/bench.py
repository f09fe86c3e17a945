"""`covis bench`: latency, throughput and memory by stage, dense beside sparse settings."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from covis.commands.arguments import BundlePath, MeasureArguments, SparsityArguments, default
from covis.engines.errors import user_error
from covis.engines.options import (
    MOST_VIEWS_AT_ONCE,
    RunOptions,
    Selector,
    Sparsity,
    SparsityChanges,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from covis.engines.bundle.bundle import Bundle
    from covis.evaluation.bench.measure import Setting
    from covis.evaluation.bench.record import Samples
    from covis.runtime.photos.images import Images
    from covis.runtime.pipeline import Pipeline


@dataclass(frozen=True)
class BenchCommand:
    """Measure latency, throughput and memory by stage, dense beside sparse.

    Attributes:
        bundle: Bundle to measure: a folder that `covis export` wrote.
        photos: Folder of photos, repeated where there are fewer than --views.
        views: Number of views of the scene, up to 20,000; 0 takes each photo once.
        against: Selector that all settings are measured against, in the same run.
        also: Further settings to measure in the same run, each a selector, a regime such as
            "anchors=10", a schedule, or a published schedule: gotohunt or sparse-vggt.
        warmUp: Time of the runs that are not counted, in milliseconds; at least two runs.
        iterations: Smallest number of counted runs of each setting.
        duration: Shortest time of all counted runs, in seconds.
        avgRuns: Number of consecutive runs in each mean that the record also contains.
        percentile: Percentiles of the times to report, in percent, above 0 and up to 100.
        exportTimes: JSON file to write the record to; `covis estimate --bench` reads it.
        run: How the stages run, and in which backend.
        sparsity: Selector options to measure; options that are not given keep the bundle's values.
    """

    bundle: BundlePath
    photos: Annotated[Path | None, default("synthetic pictures")] = None
    views: int = 8
    against: Selector = "dense"
    also: Annotated[tuple[str, ...], default("none")] = ()
    warmUp: float = 200.0  # noqa: N815 - trtexec's names
    iterations: int = 10
    duration: float = 3.0
    avgRuns: int = 10  # noqa: N815
    percentile: tuple[float, ...] = (90.0, 95.0, 99.0)
    exportTimes: Annotated[Path | None, default("no file")] = None  # noqa: N815
    run: MeasureArguments = field(default_factory=RunOptions)
    sparsity: SparsityArguments = field(default_factory=SparsityChanges)

    def __post_init__(self) -> None:
        if self.views < 0 or (self.views == 0 and self.photos is None):
            raise user_error(
                f"{self.views} views cannot be measured", where="--views", hint="use 1 or more"
            )
        if self.views > MOST_VIEWS_AT_ONCE:
            raise user_error(
                f"{self.views} is above {MOST_VIEWS_AT_ONCE:,}", where="--views", hint="use fewer"
            )
        if self.avgRuns < 1:
            raise user_error(f"{self.avgRuns} is below 1", where="--avgRuns", hint="use 1 or more")
        for share in self.percentile:
            if not 0 < share <= 100:
                raise user_error(
                    f"{share:g} is not in (0, 100]", where="--percentile", hint="e.g. 90,99"
                )


def bench(command: BenchCommand) -> None:
    """Measure, print a table, and write the record."""
    from rich.console import Console

    from covis.commands.run import warn
    from covis.engines.system.atomic import atomic_file, check_file_target
    from covis.evaluation.bench.measure import Schedule, measure
    from covis.runtime.pipeline import load

    schedule = Schedule(command.warmUp, command.iterations, command.duration)
    if command.exportTimes is not None:
        check_file_target(command.exportTimes)
    console = Console(stderr=True, highlight=False)
    with console.status("checking the bundle"):
        pipeline = load(command.bundle, command.run)
        images = pictures(command, pipeline.bundle)
    warn(console, images.notes)
    settings = bench_settings(command, pipeline.bundle.manifest.sparsity, len(images))
    if len(settings) == 1:
        console.print(
            f"only {command.against} is measured, which is the selector of {len(images)} views: "
            "give --selector or --also",
            markup=False,
        )
    with console.status("warming up") as status:
        samples = measure(
            pipeline, images, settings, schedule,
            lambda name, run: status.update(f"{name}, run {run}"),
        )  # fmt: skip
    record = make_record(command, pipeline, images, settings, samples)
    print_record(record, record["speedup"], on_gpu=command.run.backend.on_gpu)
    if command.exportTimes is not None:
        with atomic_file(command.exportTimes) as stream:
            stream.write(json.dumps(record, indent=1).encode() + b"\n")


def bench_settings(command: BenchCommand, base: Sparsity, views: int) -> dict[str, Setting]:
    """Return the settings to measure by name, the one to compare with first.

    Raises:
        CovisError: A setting is unknown.
    """
    from covis.engines.schedule import resolve
    from covis.evaluation.bench.measure import Setting
    from covis.evaluation.bench.settings import named_setting

    chosen = resolve(command.sparsity.apply(base), views)
    against = resolve(SparsityChanges(selector=command.against).apply(chosen), views)
    settings: dict[str, Setting] = {against.selector: Setting(against)}
    settings.setdefault(chosen.selector, Setting(chosen))
    for word in command.also:
        settings.setdefault(word, Setting(resolve(named_setting(word, chosen), views)))
    return settings


def pictures(command: BenchCommand, bundle: Bundle) -> Images:
    """Return the photos, repeated until there are enough, or synthetic pictures without photos.

    Raises:
        CovisError: No photo can be read.
    """
    from covis.evaluation.bench.measure import random_images
    from covis.runtime.photos.images import load_images
    from covis.runtime.photos.selection import select_photos

    if command.photos is None:
        return random_images(command.views, bundle.manifest.pixel_rule)
    selection = select_photos(command.photos)
    found = selection.photos
    views = command.views or len(found)
    repeated = (found * -(-views // len(found)))[:views]
    images = load_images(repeated, bundle.manifest.pixel_rule)
    return replace(images, notes=(*selection.notes, *images.notes))


def make_record(
    command: BenchCommand,
    pipeline: Pipeline,
    images: Images,
    settings: Mapping[str, Setting],
    samples: Mapping[str, Samples],
) -> dict[str, Any]:
    """Return all measurements, with what they were measured on, for JSON."""
    from covis.engines.regime import format_schedule
    from covis.engines.schedule import layer_regimes
    from covis.evaluation.bench.record import machine, ratios, setting_record

    manifest, on_gpu = pipeline.bundle.manifest, command.run.backend.on_gpu
    return {
        **machine(),
        **pipeline.backend.about(),
        # Ratios inside one run are valid anywhere; times of a shared CPU change from day to day.
        "absolute_times": "of this GPU" if on_gpu else "of a CPU: use the ratios",
        "model": manifest.model.name,
        "image_size": [manifest.pixel_rule.height, manifest.pixel_rule.width],
        "precision": manifest.precision.name,
        "bundle": pipeline.bundle.digest(),
        "views": len(images),
        "chunk": command.run.frames_at_once,
        "photos": "made" if command.photos is None else str(command.photos),
        "settings": {
            name: {
                "sparsity": asdict(settings[name].sparsity),
                "schedule": format_schedule(
                    layer_regimes(settings[name].sparsity, manifest.model.global_layers)
                ),
                **setting_record(taken, len(images), command.percentile, command.avgRuns),
            }
            for name, taken in samples.items()
        },
        "speedup": ratios(samples, next(iter(settings))),
    }


def print_record(
    record: Mapping[str, Any], speedup: Mapping[str, Mapping[str, float]], *, on_gpu: bool
) -> None:
    """Print one row for each stage and setting; times of a CPU are marked as such."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=120)
    unit = "ms" if on_gpu else "CPU ms"
    shares = list(next(iter(record["settings"].values()))["latency_ms"]["percentiles"])
    table = Table("setting", "stage", box=None)
    for title in ("speed-up", "runs", "median", "mean", "min", "max", *(f"p{p}" for p in shares)):
        table.add_column(
            title if title in ("speed-up", "runs") else f"{title} {unit}", justify="right"
        )
    table.add_column("GiB", justify="right")
    for name, setting in record["settings"].items():
        rows = {**setting["stages"], "whole": {"latency_ms": setting["latency_ms"]}}
        for stage, entry in rows.items():
            times = entry["latency_ms"]
            ratio = speedup.get(name, {}).get(stage)
            memory = entry.get("memory_bytes")
            table.add_row(
                name,
                stage,
                "" if ratio is None else f"{ratio:.2f}",
                str(times["runs"]),
                *(f"{times[key]:.2f}" for key in ("median", "mean", "min", "max")),
                *(f"{times['percentiles'][share]:.2f}" for share in shares),
                "" if memory is None else f"{memory / 2**30:.2f}",
            )
    console.print(table)
    for name, setting in record["settings"].items():
        console.print(
            f"{name} ({setting['schedule']}): {setting['views_per_second']:.1f} views/s, "
            f"{setting['scenes_per_second']:.3f} scenes of {record['views']} views/s",
            markup=False,
            soft_wrap=True,
        )
    if not on_gpu:
        console.print(
            "times are of this CPU at its present load: only the speed-ups can be compared"
        )
