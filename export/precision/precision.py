"""Map `--precision` and `--keep-fp32` to the passes of a stage and the types of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
import torch

from covis.engines.bundle.manifest import Scope, WeightsDtype
from covis.engines.dtypes import BY_ONNX
from covis.engines.errors import user_error
from covis.engines.limits import PAIR_MAPS
from covis.export.options import MAX_VIEWS, ExportOptions, Precision
from covis.export.passes import (
    Fold,
    LowAttention,
    MoveCasts,
    Narrow,
    Parameters,
    Pass,
    Quantize,
    SplitQkv,
    SplitRows,
    WidenLevels,
)
from covis.export.sizes import PROBES as MOST_PROBES
from covis.export.stage import MAPS, PROBES, VIEWS
from covis.export.trace import layer_of

NARROW = {
    "fp16": ir.DataType.FLOAT16,
    "bf16": ir.DataType.BFLOAT16,
    "fp8": ir.DataType.FLOAT16,  # of what is not in FP8 itself
}
HEADS = "heads"
_TRUNK = ("encoder", "saliency", "aggregator", "aggregator_pooled")


@dataclass(frozen=True)
class KeepList:
    """Parts of a model that stay in float32.

    Attributes:
        entries: Names of the parts: `heads` (every stage after the aggregator), a stage, or
            `stage/layer`. A layer is the path of a module in the checkpoint and includes all
            modules inside it. The two aggregators are the same layers over the same weights, so the
            name of either one selects both.
    """

    entries: tuple[str, ...]

    @staticmethod
    def parse(text: str) -> KeepList:
        """Parse a list with commas; `none` or an empty text selects nothing."""
        words = [word.strip() for word in text.split(",")]
        return KeepList(tuple(word for word in words if word and word != "none"))

    def keeps(self, stage: str, layer: str) -> bool:
        """Return True if that layer of that stage stays in float32."""
        return any(self._covers(entry, stage, layer) for entry in self.entries)

    @staticmethod
    def _covers(entry: str, stage: str, layer: str) -> bool:
        name, _, inner = entry.partition("/")
        same = _same_weights(name) == _same_weights(stage)
        if not same and not (name == HEADS and stage not in _TRUNK):
            return False
        return not inner or layer == inner or layer.startswith(f"{inner}.")

    def check(self, graphs: Mapping[str, ir.Model]) -> None:
        """Reject an entry that matches nothing in these stages.

        Raises:
            CovisError: an unknown entry; the text lists what exists.
        """
        for entry in self.entries:
            layers = [
                (stage, layer_of(node)) for stage, model in graphs.items() for node in model.graph
            ]
            if entry == HEADS or any(self._covers(entry, stage, layer) for stage, layer in layers):
                continue
            stage, _, inner = entry.partition("/")
            known = stage in graphs or stage == HEADS
            raise user_error(
                f"{entry!r} names no {'layer of that stage' if inner and known else 'stage'}",
                where="--keep-fp32",
                hint=f"use {HEADS}, a stage ({', '.join(graphs)}), or stage/layer such as "
                f"{_some_layer(layers)}",
            )


def _same_weights(stage: str) -> str:
    return stage.removesuffix("_pooled")


def _some_layer(layers: Sequence[tuple[str, str]]) -> str:
    return next(
        (f"{s}/{layer}" for s, layer in layers if layer.count(".") >= 2), "encoder/blocks.0"
    )


def base_passes(scope: Scope = "frames", max_views: int = MAX_VIEWS) -> list[Pass]:
    """Return the passes of every graph; graphs with all views at once are also split to fit."""
    if scope == "frames":  # the runtime chooses the number of frames of a chunk
        return [Fold(), WidenLevels()]
    lengths = {VIEWS: max_views, PROBES: MOST_PROBES, MAPS: PAIR_MAPS.most}
    return [Fold(), SplitQkv(lengths), SplitRows(lengths), WidenLevels()]


@dataclass(frozen=True)
class Scales:
    """Scales found by calibration.

    Attributes:
        peaks: Largest magnitude that each layer read, by layer.
        weights: Scale of each stored tensor, by its name in the weights file.
    """

    peaks: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)


def narrowing_passes(precision: Precision, keep: KeepList, stage: str) -> list[Pass]:
    """Return the passes that follow the base passes and lead to half precision."""
    if precision == "fp32":
        return []
    return [Narrow(NARROW[precision], lambda layer: keep.keeps(stage, layer)), MoveCasts()]


def fp8_passes(scales: Scales, keep: KeepList, stage: str, attention: bool) -> list[Pass]:
    """Return the passes from half precision to FP8."""

    def keeps(layer: str) -> bool:
        return keep.keeps(stage, layer)

    passes: list[Pass] = [Quantize(scales.peaks, scales.weights, keeps)]
    return [*passes, LowAttention(keeps)] if attention else passes


def stored_dtype(options: ExportOptions) -> WeightsDtype:
    """Return the type of the linear layers' weights in the bundle."""
    if options.precision == "fp32":
        return options.dtype
    if options.precision == "fp8":
        return "float8_e4m3fn"
    return "bfloat16" if NARROW[options.precision] == ir.DataType.BFLOAT16 else "float16"


def stored_types(graphs: Iterable[ir.Model]) -> dict[str, torch.dtype]:
    """Return the stored type of each parameter, by its name in the weights file.

    Where stages differ, the widest type is stored, and the other stages cast it as they read it.
    """
    types: dict[str, torch.dtype] = {}
    for model in graphs:
        for value in model.graph.initializers.values():
            key = Parameters.key(value)
            if key is None:
                continue
            assert value.dtype is not None
            dtype: torch.dtype = getattr(torch, BY_ONNX[int(value.dtype)].name)
            if types.setdefault(key, dtype) != dtype:
                types[key] = torch.float32
    return types
