"""Estimate the memory of a bundle's stages for a number of views, before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx

from covis.engines.bundle.bundle import Bundle
from covis.engines.bundle.manifest import Stage
from covis.engines.graphs.peak_memory import peak_memory
from covis.engines.graphs.read import external_data
from covis.engines.graphs.shapes import ShapeEvaluator, TensorFacts
from covis.engines.tensorrt.parser_graph.parser_graph import for_tensorrt


@dataclass(frozen=True)
class StageMemory:
    """Memory of one run of a stage.

    Attributes:
        scratch: Peak memory of intermediate results in bytes; each counts from the node that
            produces it to the last node that reads it. TensorRT fuses nodes and needs less; the
            kernels' own workspace is not included.
        node: Name of the node that runs at the peak.
        largest: Name of the tensor with the most elements.
        elements: Number of elements of that tensor.
    """

    scratch: int
    node: str
    largest: str
    elements: int


class MemoryEstimate:
    """Estimates for the stages of a bundle, from the tensor shapes in their graphs."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._models: dict[str, onnx.ModelProto] = {}
        self._shapes: dict[str, ShapeEvaluator] = {}
        self._estimates: dict[tuple[str, tuple[tuple[str, int], ...]], StageMemory] = {}

    def weights(self, stage: Stage) -> int:
        """Return the size of a stage's weights in bytes.

        A plan contains its own copy of them; ONNX Runtime on the CPU maps the file that all stages
        share.
        """
        model = self._model(stage)
        external = {(e.location, e.offset): e.length for e in external_data(model)}
        internal = sum(len(t.raw_data) for t in model.graph.initializer)
        return sum(external.values()) + internal

    def stage(self, stage: Stage, sizes: Mapping[str, int]) -> StageMemory:
        """Estimate a run of `stage` with these values of its symbols (M, N, K)."""
        used = {n for t in stage.inputs for n in t.shape if isinstance(n, str)}
        key = stage.name, tuple(sorted((n, sizes[n]) for n in used))
        if key not in self._estimates:
            self._estimates[key] = self._estimate(stage, sizes)
        return self._estimates[key]

    def _estimate(self, stage: Stage, sizes: Mapping[str, int]) -> StageMemory:
        model = self._model(stage)
        if stage.name not in self._shapes:
            self._shapes[stage.name] = ShapeEvaluator(model)
        shapes = {
            t.name: tuple(sizes[n] if isinstance(n, str) else n for n in t.shape)
            for t in stage.inputs
        }
        facts = self._shapes[stage.name](shapes)
        peak = peak_memory(model, facts)
        name, fact = max(facts.items(), key=_elements)
        return StageMemory(peak.bytes, peak.node, name, fact.elements)

    def _model(self, stage: Stage) -> onnx.ModelProto:
        if stage.name not in self._models:
            self._models[stage.name] = for_tensorrt(self.bundle.graph(stage).model())
        return self._models[stage.name]


def largest_views(needs: Callable[[int], int], budget: int, limit: int) -> int:
    """Find the largest number of views whose need is within a budget.

    Few evaluations are made, because each may take seconds: first at numbers that grow eightfold,
    then by regula falsi (Illinois variant).

    Args:
        needs: Returns the need of a number of views; must not decrease with that number.
        budget: Largest need that is allowed, in the same unit.
        limit: Largest number of views to consider.

    Returns:
        The number of views, at most `limit`; 0 if not even one view fits.
    """
    low, high = 0, 1
    while needs(high) <= budget:
        if high == limit:
            return limit
        low, high = high, min(8 * high, limit)
    if low == 0:
        return 0
    below, above = float(needs(low) - budget), float(needs(high) - budget)
    while high - low > 1:
        share = -below / (above - below)
        guess = min(max(low + math.floor(share * (high - low)), low + 1), high - 1)
        over = needs(guess) - budget
        if over <= 0:
            low, below, above = guess, over, above / 2
            if low + 1 < high and needs(low + 1) > budget:
                return low
        else:
            high, above, below = guess, over, below / 2
    return low


def _elements(item: tuple[str, TensorFacts]) -> int:
    return item[1].elements
