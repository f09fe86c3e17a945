"""Memory of a run by its number of views, without running it, and the most views that fit."""

from __future__ import annotations

from typing import NamedTuple

from covis.engines.bundle.bundle import Bundle
from covis.engines.op import MOST_ELEMENTS
from covis.engines.options import MOST_VIEWS_AT_ONCE, RunOptions, Sparsity
from covis.engines.pair_rules import pair_rules
from covis.engines.schedule import resolve
from covis.engines.tensorrt.stage_memory import MemoryEstimate, StageMemory, largest_views
from covis.runtime import flow
from covis.runtime.flow import Step


class Limit(NamedTuple):
    """The most views that can run, and what forbids one more.

    Attributes:
        views: Number of views.
        reason: What forbids one more, for a message.
        stage: Stage where it does.
    """

    views: int
    reason: str
    stage: str


class RunMemory:
    """Memory of the runs of one bundle with given options.

    A GPU contains weights, values between stages, buffers and intermediate results. On a CPU the
    photos and the results of all views are in the same memory, and are counted, too.

    Args:
        bundle: Opened bundle.
        run: Options of the run; backend and chunk count.
        sparsity: Selector options; `auto` is resolved for each number of views.
    """

    def __init__(self, bundle: Bundle, run: RunOptions, sparsity: Sparsity) -> None:
        self.bundle, self.run, self.sparsity = bundle, run, sparsity
        self.on_gpu = run.backend.on_gpu
        self._memory = MemoryEstimate(bundle)
        # The regimes of `auto` run the same stages.
        self.steps: tuple[Step, ...] = flow.steps(bundle.manifest, self.at(1))
        sizes = [self._memory.weights(step.stage) for step in self.steps]
        # ONNX Runtime maps the one file of weights for all stages.
        weights = next(f for f in bundle.manifest.files if f.path == bundle.manifest.weights.file)
        self.weights = sum(sizes) if self.on_gpu else min(sum(sizes), weights.size)

    def at(self, views: int) -> Sparsity:
        """Return the selector options of a run of so many views."""
        return resolve(self.sparsity, views)

    def lengths(self, views: int) -> dict[str, int]:
        """Return the values of the symbols K, sampled queries, and R, maps of view pairs."""
        model = self.bundle.manifest.model
        rules = pair_rules(self.at(views), model.global_layers, views, model.reference_view)
        return {"K": max(self.run.probes, 1), "R": len(rules.tau)}

    def stage(self, step: Step, views: int) -> StageMemory:
        """Return what one stage needs for itself."""
        frames = min(self.run.frames_at_once, views)
        return self._memory.stage(step.stage, {**self.lengths(views), "M": views, "N": frames})

    def stage_weights(self, step: Step) -> int:
        """Return the size of the weights of one stage in bytes."""
        return self._memory.weights(step.stage)

    def total(self, views: int) -> int:
        """Return the peak memory of the run in bytes, weights included."""
        # A last, shorter chunk needs no more than a full one.
        frames = min(self.run.frames_at_once, views)
        peak = flow.peak_bytes(
            self.steps,
            views,
            self.run.frames_at_once,
            self.lengths(views),
            lambda stage, sizes: self._memory.stage(stage, {**sizes, "N": frames}).scratch,
        )
        return peak + self.weights + (0 if self.on_gpu else self.results(views))

    def results(self, views: int) -> int:
        """Return the bytes of the photos and of the results of chunked stages, on the host."""
        rule = self.bundle.manifest.pixel_rule
        sizes = {**self.lengths(views), "M": views, "N": views}
        maps = sum(
            flow.nbytes(tensor, sizes)
            for step in self.steps
            if step.stage.scope == "frames"
            for tensor in step.stage.outputs
            if tensor.name not in step.read_later
        )
        return maps + 3 * views * rule.height * rule.width

    def elements(self, views: int) -> int:
        """Return the number of elements of the largest tensor of any stage."""
        return max(self.stage(step, views).elements for step in self.steps)

    def fullest(self, views: int) -> str:
        """Return the stage with the highest memory: its own results and what later stages read."""
        whole = {**self.lengths(views), "M": views, "N": views}
        live = flow.live_bytes(self.steps, whole)
        step, _ = max(live, key=lambda pair: pair[1] + self.stage(pair[0], views).scratch)
        return step.stage.name

    def limit(self, budget: int | None) -> Limit | None:
        """Find the most views that run within a budget; None if no limit is known.

        Args:
            budget: Memory that the run may take, in bytes; None: only the limit of TensorRT counts,
                which takes no tensor of 2^31 elements.
        """
        limits: list[Limit] = []
        cap = MOST_VIEWS_AT_ONCE
        if budget is not None:
            cap = largest_views(self.total, budget, MOST_VIEWS_AT_ONCE)
            if cap < MOST_VIEWS_AT_ONCE:
                need = f"{cap + 1} need {size_text(self.total(cap + 1))}"
                reason = f"{need}, there are {size_text(budget)}"
                limits.append(Limit(cap, reason, self.fullest(cap + 1)))
        # Searched only where this limit comes first: a search computes every stage a dozen times.
        if self.on_gpu and cap and self.elements(cap) > MOST_ELEMENTS:
            most = largest_views(self.elements, MOST_ELEMENTS, cap)
            over = max(self.steps, key=lambda step: self.stage(step, most + 1).elements)
            tensor = self.stage(over, most + 1).largest
            reason = (
                f"TensorRT takes no tensor of 2^31 elements, which {tensor!r} has at {most + 1}"
            )
            limits.append(Limit(most, reason, over.stage.name))
        return min(limits, default=None)


def size_text(count: int) -> str:
    """Return a number of bytes as text, in MiB or GiB."""
    return f"{count / 2**30:,.2f} GiB" if count >= 2**29 else f"{count / 2**20:,.1f} MiB"
