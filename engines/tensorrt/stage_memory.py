"""The memory that a bundle's stages need at a number of views, before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx

from covis.engines.bundle.bundle import Bundle
from covis.engines.bundle.manifest import Stage
from covis.engines.graphs.peak_memory import peak_memory
from covis.engines.graphs.read import external_data, load_graph
from covis.engines.graphs.shapes import ShapeEvaluator, TensorFacts
from covis.engines.tensorrt.parser_graph.parser_graph import for_tensorrt


@dataclass(frozen=True)
class StageNeed:
    """What one run of a stage needs.

    Attributes:
        scratch: bytes of intermediate results at their highest, each kept from its writer to its
            last reader. TensorRT fuses nodes and needs less; kernels' own workspace is not in it.
        node: the node that runs at that moment.
        largest: name of the tensor with the most elements.
        elements: how many it has.
    """

    scratch: int
    node: str
    largest: str
    elements: int


class MemoryPlan:
    """Predictions for the stages of a bundle, from the shapes in their graphs."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._models: dict[str, onnx.ModelProto] = {}
        self._shapes: dict[str, ShapeEvaluator] = {}
        self._needs: dict[tuple[str, tuple[tuple[str, int], ...]], StageNeed] = {}

    def weights(self, stage: Stage) -> int:
        """Bytes of a stage's weights: a plan holds a copy of its own, ONNX Runtime's CPU maps the
        file that all stages share.
        """
        model = self._model(stage)
        outside = {(e.location, e.offset): e.length for e in external_data(model)}
        inside = sum(len(t.raw_data) for t in model.graph.initializer)
        return sum(outside.values()) + inside

    def need(self, stage: Stage, sizes: Mapping[str, int]) -> StageNeed:
        """What a run of `stage` needs where its symbols (M, N, K) have these values."""
        used = {n for t in stage.inputs for n in t.shape if isinstance(n, str)}
        key = stage.name, tuple(sorted((n, sizes[n]) for n in used))
        if key not in self._needs:
            self._needs[key] = self._reckon(stage, sizes)
        return self._needs[key]

    def _reckon(self, stage: Stage, sizes: Mapping[str, int]) -> StageNeed:
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
        return StageNeed(peak.bytes, peak.node, name, fact.elements)

    def _model(self, stage: Stage) -> onnx.ModelProto:
        if stage.name not in self._models:
            self._models[stage.name] = for_tensorrt(load_graph(self.bundle.graph(stage)))
        return self._models[stage.name]


def largest_views(needs: Callable[[int], int], budget: int, limit: int) -> int:
    """The largest number of views up to `limit` whose need is within the budget; 0: not even one.

    `needs` must not fall with the number of views, and is asked rarely: first at numbers that grow
    eightfold, then by regula falsi (Illinois variant).
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
