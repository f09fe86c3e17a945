"""`covis estimate`: memory and time of a run, and the most views that fit, without running it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from covis.engines.errors import user_error
from covis.engines.options import MOST_VIEWS_AT_ONCE, Selector
from covis.engines.system.json_file import read_json

if TYPE_CHECKING:
    from covis.engines.bundle.bundle import Bundle
    from covis.engines.tensorrt.stage_memory import MemoryPlan, StageNeed
    from covis.runtime.flow import Step

_WRITE_RECORD = "write one with `covis bench --exportTimes`"


@dataclass(frozen=True)
class EstimateCommand:
    """Estimate the memory of a run, and name what limits the number of views.

    Attributes:
        bundle: a folder made by `covis export`.
        views: number of views.
        chunk: frames that encoder and heads take at once.
        probes: queries on which the kept attention mass is measured.
        memory: GiB of the device that the run may take; the first GPU's where not given.
        selector: the selector, which decides the aggregator; the bundle's own where not given.
        backend: `tensorrt` holds a copy of each stage's weights on the device and refuses tensors
            of 2^31 elements; `onnxruntime` (CPU) maps the weights.
        bench: records of `covis bench` to take times from, where they are of this bundle.
        json: print everything as JSON.
    """

    bundle: tyro.conf.Positional[Path]
    views: int
    chunk: int = 16
    probes: int = 1
    memory: float | None = None
    selector: Selector | None = None
    backend: Literal["tensorrt", "onnxruntime"] = "tensorrt"
    bench: tuple[Path, ...] = ()
    json: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.views <= MOST_VIEWS_AT_ONCE:
            raise user_error(
                f"{self.views} is not in [1, {MOST_VIEWS_AT_ONCE:,}]",
                where="--views",
                hint="give a number",
            )
        for name in ("chunk", "probes"):
            if getattr(self, name) < 1:
                raise user_error(
                    f"{getattr(self, name)} is below 1", where=f"--{name}", hint="use 1 or more"
                )
            if getattr(self, name) >= 2**31:
                raise user_error(
                    f"{getattr(self, name)} is no number of tokens or frames",
                    where=f"--{name}",
                    hint="use less than 2^31",
                )
        if self.memory is not None and not 0 < self.memory < 1e6:
            raise user_error(
                f"{self.memory:g} GiB is no size of a memory", where="--memory", hint="e.g. 80"
            )


@dataclass(frozen=True)
class Row:
    """One stage; sizes in bytes, times in milliseconds."""

    stage: str
    runs_over: str
    weights: int
    scratch: int
    kept: int
    largest_tensor: str
    elements: int
    median_ms: float | None


def estimate(command: EstimateCommand) -> None:
    """Print the prediction.

    Raises:
        CovisError: so many views do not fit (exit code 3, after the table), or wrong options.
    """
    from covis.engines.bundle.bundle import open_bundle
    from covis.engines.errors import environment_error

    budget = _budget(command)
    prediction = _Prediction(open_bundle(command.bundle), command)
    record = prediction.record(budget)
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


class _Prediction:
    def __init__(self, bundle: Bundle, command: EstimateCommand) -> None:
        from covis.engines.options import SparsityChanges
        from covis.engines.tensorrt.stage_memory import MemoryPlan
        from covis.runtime.flow import steps

        self.bundle, self.command = bundle, command
        self.memory: MemoryPlan = MemoryPlan(bundle)
        changes = SparsityChanges(selector=command.selector)
        self.sparsity = changes.apply(bundle.manifest.sparsity)
        self.run: tuple[Step, ...] = steps(bundle.manifest, self.sparsity)
        shared = command.backend == "onnxruntime"
        sizes = [self.memory.weights(step.stage) for step in self.run]
        # ONNX Runtime maps the one file of weights for all stages.
        weights = next(f for f in bundle.manifest.files if f.path == bundle.manifest.weights.file)
        self.weights = min(sum(sizes), weights.size) if shared else sum(sizes)

    def need(self, step: Step, views: int) -> StageNeed:
        command = self.command
        frames = min(command.chunk, views)
        sizes = {"M": views, "N": frames, "K": command.probes}
        return self.memory.need(step.stage, sizes)

    def total(self, views: int) -> int:
        """Bytes at the run's highest, weights included."""
        from covis.runtime.flow import peak_bytes

        command = self.command
        # A last, shorter chunk needs no more than a full one.
        frames = min(command.chunk, views)
        peak = peak_bytes(
            self.run,
            views,
            command.chunk,
            command.probes,
            lambda stage, sizes: self.memory.need(stage, {**sizes, "N": frames}).scratch,
        )
        return peak + self.weights

    def elements(self, views: int) -> int:
        """Elements of the largest tensor of any stage."""
        return max(self.need(step, views).elements for step in self.run)

    def record(self, budget: int | None) -> dict[str, Any]:
        """Everything predicted, for JSON."""
        from covis.engines.op import MOST_ELEMENTS
        from covis.engines.tensorrt.stage_memory import largest_views

        views = self.command.views
        rows = self._rows()
        limits: list[tuple[int, str, str]] = []
        cap = MOST_VIEWS_AT_ONCE
        if budget is not None:
            cap = largest_views(self.total, budget, MOST_VIEWS_AT_ONCE)
            if cap < MOST_VIEWS_AT_ONCE:
                words = f"{cap + 1} need {_size(self.total(cap + 1))}, there are {_size(budget)}"
                limits.append((cap, words, self._fullest(cap + 1)))
        # Asked only whether it comes first: a search reckons every stage a dozen times.
        if self.command.backend == "tensorrt" and cap and self.elements(cap) > MOST_ELEMENTS:
            most = largest_views(self.elements, MOST_ELEMENTS, cap)
            over = max(self.run, key=lambda step: self.need(step, most + 1).elements)
            tensor = self.need(over, most + 1).largest
            words = f"TensorRT takes no tensor of 2^31 elements, which {tensor!r} has at {most + 1}"
            limits.append((most, words, over.stage.name))
        fewest = min(limits, default=None)
        return {
            "bundle": self.bundle.digest(),
            "backend": self.command.backend,
            "selector": self.sparsity.selector,
            "views": views,
            "chunk": self.command.chunk,
            "stages": [asdict(row) for row in rows],
            "weights": self.weights,
            "total": self.total(views),
            "budget": budget,
            "most_views": fewest[0] if fewest else None,
            "limit": fewest[1] if fewest else None,
            "limiting_stage": fewest[2] if fewest else None,
        }

    def _fullest(self, views: int) -> str:
        """The stage that holds most: its own results and what waits for later stages."""
        from covis.runtime.flow import held_bytes

        whole = {"M": views, "N": views, "K": self.command.probes}
        held = held_bytes(self.run, whole)
        return max(held, key=lambda pair: pair[1] + self.need(pair[0], views).scratch)[0].stage.name

    def _rows(self) -> list[Row]:
        from covis.runtime.flow import held_bytes

        views = self.command.views
        whole = {"M": views, "N": views, "K": self.command.probes}
        times = _times(self)
        rows = []
        for step, held in held_bytes(self.run, whole):
            need = self.need(step, views)
            rows.append(
                Row(
                    stage=step.stage.name,
                    runs_over="chunks" if step.stage.scope == "frames" else "all views",
                    weights=self.memory.weights(step.stage),
                    scratch=need.scratch,
                    kept=held,
                    largest_tensor=need.largest,
                    elements=need.elements,
                    median_ms=times.get(step.stage.name),
                )
            )
        return rows


def _times(prediction: _Prediction) -> dict[str, float]:
    """Median milliseconds by stage, from records of this very bundle, views, chunk and selector."""
    command, found = prediction.command, dict[str, float]()
    for path in command.bench:
        record = read_json(path, _WRITE_RECORD)
        try:
            same = (
                record["bundle"] == prediction.bundle.digest()
                and record["backend"] == command.backend
                and (record["views"], record["chunk"]) == (command.views, command.chunk)
            )
            setting = record["settings"].get(prediction.sparsity.selector) if same else None
            for name, entry in (setting or {"stages": {}})["stages"].items():
                found[name] = float(entry["latency_ms"]["median"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise user_error(
                "is no record of `covis bench`", where=path, hint=_WRITE_RECORD
            ) from error
    return found


def _budget(command: EstimateCommand) -> int | None:
    """Bytes that the run may take; None where nobody says and there is no GPU to ask."""
    from covis.engines.errors import CovisError
    from covis.engines.system.gpu import find_gpu

    if command.memory is not None:
        return int(command.memory * 2**30)
    if command.backend == "onnxruntime":
        from covis.commands.doctor import _memory_gib

        return int(_memory_gib() * 2**30) or None
    try:
        return find_gpu().memory
    except CovisError:
        return None


def _show(command: EstimateCommand, record: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from covis.engines.errors import printable

    console = Console(highlight=False, width=100)
    table = Table("stage", "runs over", box=None)
    for title in ("weights", "results", "kept between", "largest tensor", "time"):
        table.add_column(title, justify="right")
    for row in record["stages"]:
        time = row["median_ms"]
        table.add_row(
            row["stage"],
            row["runs_over"],
            *(_size(row[name]) for name in ("weights", "scratch", "kept")),
            f"{row['elements'] / 2**31:.3f} x 2^31",
            "not measured" if time is None else f"{time:,.1f} ms",
        )
    console.print(table)
    console.print(
        f"{record['views']} views, chunks of {record['chunk']}, selector {record['selector']}, "
        f"{record['backend']}: {_size(record['total'])} at its highest, "
        f"{_size(record['weights'])} of it weights; not counted: what driver and kernels take",
        markup=False,
    )
    if record["budget"] is None:
        console.print("no GPU to ask for its memory: give --memory GiB to learn what fits")
    if record["most_views"] is None:
        console.print(f"nothing known limits the views to {MOST_VIEWS_AT_ONCE:,} or fewer")
    else:
        console.print(
            printable(f"at most {record['most_views']} views; the limit: {record['limit']} "
                      f"(stage {record['limiting_stage']})"),
            markup=False,
        )  # fmt: skip


def _size(count: int) -> str:
    return f"{count / 2**30:,.2f} GiB" if count >= 2**29 else f"{count / 2**20:,.1f} MiB"
