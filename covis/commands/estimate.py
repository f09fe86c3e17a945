"""`covis estimate`: memory and time of a run, and the most views that fit, without running it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from covis.commands.arguments import BundlePath, EstimateArguments, SparsityArguments, default
from covis.engines.errors import user_error
from covis.engines.options import (
    MOST_VIEWS_AT_ONCE,
    BackendOptions,
    RunOptions,
    Sparsity,
    SparsityChanges,
)
from covis.engines.system.json_file import read_json

if TYPE_CHECKING:
    from covis.engines.bundle.bundle import Bundle

_WRITE_RECORD = "write one with `covis bench --exportTimes`"


@dataclass(frozen=True)
class EstimateCommand:
    """Estimate the memory of a run, and name what limits the number of views.

    Attributes:
        bundle: Bundle to estimate for: a folder that `covis export` wrote.
        views: Number of views of the scene, from 1 to 20,000.
        memory: Memory that the run may take, in GiB.
        bench: Records of `covis bench` to take times from. Only those of the same bundle, views,
            chunk, backend and selector options are used.
        json: Print the whole estimate as JSON instead of a table.
        run: Options of the run that change its memory. `tensorrt` keeps a copy of each stage's
            weights on the GPU and rejects tensors of 2^31 elements; `cpu` maps the weights. The
            other two backends have no estimate.
        sparsity: Selector options of the run; options that are not given keep the bundle's values.
    """

    bundle: BundlePath
    views: int
    memory: Annotated[float | None, default("all of the GPU, or of the machine with `cpu`")] = None
    bench: Annotated[tuple[Path, ...], default("none")] = ()
    json: bool = False
    run: EstimateArguments = field(
        default_factory=lambda: RunOptions(backend=BackendOptions("tensorrt"))
    )
    sparsity: SparsityArguments = field(default_factory=SparsityChanges)

    def __post_init__(self) -> None:
        if not 1 <= self.views <= MOST_VIEWS_AT_ONCE:
            raise user_error(
                f"{self.views} is not in [1, {MOST_VIEWS_AT_ONCE:,}]",
                where="--views",
                hint="give a number",
            )
        if self.run.backend.backend not in ("cpu", "tensorrt"):
            raise user_error(
                f"there is no estimate for {self.run.backend.backend}",
                where="--backend",
                hint="use tensorrt, or cpu",
            )
        if self.memory is not None and not 0 < self.memory < 1e6:
            raise user_error(
                f"{self.memory:g} GiB is no size of a memory", where="--memory", hint="e.g. 80"
            )


@dataclass(frozen=True)
class Row:
    """One stage of the estimate.

    Attributes:
        stage: Name of the stage.
        runs_over: "chunks" of frames or "all views".
        weights: Size of the weights in bytes.
        scratch: Peak memory of intermediate results and outputs, in bytes.
        kept: Memory of the values that wait for later stages, in bytes.
        largest_tensor: Name of the tensor with the most elements.
        elements: Number of elements of that tensor.
        median_ms: Median time in milliseconds; None where no record has it.
    """

    stage: str
    runs_over: str
    weights: int
    scratch: int
    kept: int
    largest_tensor: str
    elements: int
    median_ms: float | None


def estimate(command: EstimateCommand) -> None:
    """Print the estimate.

    Raises:
        CovisError: The views do not fit (exit code 3, after the table), or an option is wrong.
    """
    from covis.engines.bundle.bundle import open_bundle
    from covis.engines.errors import environment_error

    budget = _budget(command)
    record = _Estimate(open_bundle(command.bundle), command).record(budget)
    if command.json:
        print(json.dumps(record, indent=1))
    else:
        _show(command, record)
    if record["limit"] is not None and record["most_views"] < command.views:
        raise environment_error(
            f"{command.views} views do not fit: {record['limit']}",
            where=f"stage {record['limiting_stage']}",
            hint=f"at most {record['most_views']} views do",
        )


class _Estimate:
    """Estimate of one command: its memory by stage, its limits, and recorded times."""

    def __init__(self, bundle: Bundle, command: EstimateCommand) -> None:
        from covis.runtime.run_memory import RunMemory

        self.bundle, self.command = bundle, command
        self.asked = command.sparsity.apply(bundle.manifest.sparsity)
        self.memory = RunMemory(bundle, command.run, self.asked)
        self.sparsity = self.memory.at(command.views)

    def record(self, budget: int | None) -> dict[str, Any]:
        """Return the whole estimate, for JSON."""
        from covis.engines.schedule import reason
        from covis.engines.work import predicted_work

        model, views = self.bundle.manifest.model, self.command.views
        limit = self.memory.limit(budget)
        return {
            "bundle": self.bundle.digest(),
            "backend": self.command.run.backend.library,
            "selector": self.sparsity.selector,
            "reason": reason(self.asked, views),
            "attention_work": predicted_work(
                self.sparsity, model.global_layers, views, model.reference_view
            ),
            "views": views,
            "chunk": self.command.run.frames_at_once,
            "stages": [asdict(row) for row in self._rows()],
            "weights": self.memory.weights,
            "results": 0 if self.memory.on_gpu else self.memory.results(views),
            "total": self.memory.total(views),
            "budget": budget,
            "most_views": limit.views if limit else None,
            "limit": limit.reason if limit else None,
            "limiting_stage": limit.stage if limit else None,
        }

    def _rows(self) -> list[Row]:
        from covis.runtime.flow import live_bytes

        views, memory = self.command.views, self.memory
        whole = {**memory.lengths(views), "M": views, "N": views}
        times = _times(self)
        rows = []
        for step, live in live_bytes(memory.steps, whole):
            need = memory.stage(step, views)
            rows.append(
                Row(
                    stage=step.stage.name,
                    runs_over="chunks" if step.stage.scope == "frames" else "all views",
                    weights=memory.stage_weights(step),
                    scratch=need.scratch,
                    kept=live,
                    largest_tensor=need.largest,
                    elements=need.elements,
                    median_ms=times.get(step.stage.name),
                )
            )
        return rows


def _times(estimate: _Estimate) -> dict[str, float]:
    """Read median milliseconds by stage, from records of the same bundle and options."""
    command, found = estimate.command, dict[str, float]()
    backend = command.run.backend
    device = "cuda" if backend.on_gpu else "cpu"
    for path in command.bench:
        record = read_json(path, _WRITE_RECORD)
        try:
            same = (
                record["bundle"] == estimate.bundle.digest()
                and record["backend"] == backend.library
                and record.get("device", device) == device
                and (record["views"], record["chunk"])
                == (command.views, command.run.frames_at_once)
            )
            setting = _setting(record["settings"], estimate.sparsity) if same else None
            for name, entry in (setting or {"stages": {}})["stages"].items():
                found[name] = float(entry["latency_ms"]["median"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise user_error(
                "is no record of `covis bench`", where=path, hint=_WRITE_RECORD
            ) from error
    return found


def _setting(settings: Mapping[str, Any], sparsity: Sparsity) -> Any:
    """Return the record of the setting with these options; None if it was not measured."""
    wanted = asdict(sparsity)
    same = (entry for entry in settings.values() if entry["sparsity"] == wanted)
    return next(same, None)


def _budget(command: EstimateCommand) -> int | None:
    """Return the bytes that the run may take; None without --memory and without a GPU."""
    from covis.engines.errors import CovisError
    from covis.engines.system.gpu import find_gpu

    if command.memory is not None:
        return int(command.memory * 2**30)
    if not command.run.backend.on_gpu:
        from covis.commands.doctor import memory_gib

        return int(memory_gib() * 2**30) or None
    try:
        return find_gpu(command.run.backend.device).memory
    except CovisError:
        return None


def _show(command: EstimateCommand, record: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from covis.engines.errors import printable
    from covis.runtime.run_memory import size_text

    console = Console(highlight=False, width=100)
    table = Table("stage", "runs over", box=None)
    for title in ("weights", "results", "kept between", "largest tensor", "time"):
        table.add_column(title, justify="right")
    for row in record["stages"]:
        time = row["median_ms"]
        table.add_row(
            row["stage"],
            row["runs_over"],
            *(size_text(row[name]) for name in ("weights", "scratch", "kept")),
            f"{row['elements'] / 2**31:.3f} x 2^31",
            "not measured" if time is None else f"{time:,.1f} ms",
        )
    console.print(table)
    results = f", {size_text(record['results'])} photos and results" if record["results"] else ""
    console.print(
        f"{record['views']} views, chunks of {record['chunk']}, selector {record['selector']}, "
        f"{record['backend']}: {size_text(record['total'])} at its peak, "
        f"{size_text(record['weights'])} of it weights{results}; not counted: driver and kernel "
        "workspaces",
        markup=False,
    )
    console.print(_attention(record), markup=False)
    if record["budget"] is None:
        console.print("no GPU was found: give its memory in GiB with --memory to see what fits")
    if record["most_views"] is None:
        console.print(f"no limit below {MOST_VIEWS_AT_ONCE:,} views is known")
    else:
        console.print(
            printable(f"at most {record['most_views']} views; the limit: {record['limit']} "
                      f"(stage {record['limiting_stage']})"),
            markup=False,
        )  # fmt: skip


def _attention(record: Mapping[str, Any]) -> str:
    """Return the line about the share of attention."""
    why = f" ({record['reason']})" if record["reason"] else ""
    work = record["attention_work"]
    share = (
        "depends on the similarity of the photos"
        if work is None
        else "100 %"
        if work == 1
        else f"at most {100 * work:.1f} %"
    )
    return f"share of dense global attention, selector {record['selector']}{why}: {share}"
