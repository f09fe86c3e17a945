"""Options shared by export, engines and runtime: the same object is CLI, API and manifest entry."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from covis.engines.errors import user_error

Selector = Literal["dense", "saliency", "pooled", "both"]
PatchOrder = Literal["raster", "hilbert"]

MOST_VIEWS_AT_ONCE = 20_000  # beyond it even a pair map of one byte takes 0.4 GB
_MOST_VIEWS = 1_000_000
_RANGE = re.compile("[0-9]{1,4}(-[0-9]{1,4})?")


@dataclass(frozen=True)
class Sparsity:
    """Which parts of global attention are computed, and how precisely.

    Every field can be changed at run time: they are inputs of a bundle's graphs.

    Attributes:
        selector: `dense`; `saliency` (frame pairs whose similarity reaches tau); `pooled` (blocks
            chosen inside each layer by pooled queries and keys); `both` (pooled inside the pairs
            that saliency kept).
        tau: frame pairs with cosine similarity of at least tau are computed in full; 0 keeps all.
        tau_low: pairs in [tau_low, tau) are computed at low precision, below it skipped. None:
            tau, or with `low_precision` 0.
        low_precision: compute the pairs below tau at low precision instead of skipping them.
        layers: the global layers that are sparse, as ranges and lists: "0-9", "0,2,4-7", "all".
        keep_ratio: pooled selector: share of key blocks kept for each query block (at least one).
        cdf: pooled selector: keep blocks up to this cumulated softmax mass. With both given the
            larger selection counts.
        min_neighbours: each view keeps this many most similar others, even below tau.
        reference: keep all pairs of the reference view (view 0) where the model has one.
        order: order of the patches of a frame as the pooled selector's blocks see them.
    """

    selector: Selector = "saliency"
    tau: float = 0.9
    tau_low: float | None = None
    low_precision: bool = False
    layers: str = "0-9"
    keep_ratio: float = 0.25
    cdf: float = 0.0
    min_neighbours: int = 0
    reference: bool = True
    order: PatchOrder = "raster"

    def __post_init__(self) -> None:
        for name, kinds in (("selector", Selector), ("order", PatchOrder)):
            if getattr(self, name) not in get_args(kinds):
                raise user_error(
                    f"{getattr(self, name)!r} is unknown",
                    where=f"--{name}",
                    hint=f"use one of {', '.join(get_args(kinds))}",
                )
        for name in ("tau", "keep_ratio", "cdf"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0.0 <= value <= 1.0):
                raise user_error(
                    f"{value} is not in [0, 1]",
                    where=f"--{name.replace('_', '-')}",
                    hint="give a number from 0 to 1",
                )
        if self.tau_low is not None and not 0.0 <= self.tau_low <= self.tau:
            raise user_error(
                f"{self.tau_low} is not in [0, tau = {self.tau}]",
                where="--tau-low",
                hint=f"give a number from 0 to {self.tau}",
            )
        if not 0 <= self.min_neighbours <= _MOST_VIEWS:
            raise user_error(
                f"{self.min_neighbours} is not in [0, {_MOST_VIEWS:,}]",
                where="--min-neighbours",
                hint="give a number of views",
            )
        parse_layers(self.layers)

    @property
    def skip_below(self) -> float:
        """The similarity under which a pair is skipped: the lower of the two thresholds."""
        if self.tau_low is not None:
            return self.tau_low
        return 0.0 if self.low_precision else self.tau


def parse_layers(text: str, depth: int | None = None) -> tuple[int, ...]:
    """Layer indices from "0-9", "0,2,4-7", "all" or "none", ascending and without repeats.

    Indices past `depth` are dropped from ranges, so that "0-9" also fits a small model; a single
    layer that the model does not have is refused, and so is a list that leaves no layer at all.
    """
    words = text.replace(" ", "")
    if words in ("", "none"):
        return ()
    if words == "all":
        return tuple(range(depth)) if depth is not None else ()
    chosen: set[int] = set()
    named: set[int] = set()
    for word in words.split(","):
        first, dash, last = word.partition("-")
        if not _RANGE.fullmatch(word) or (dash and int(last) < int(first)):
            raise user_error(
                f"{word!r} is no layer or range of layers",
                where="--layers",
                hint='write e.g. "0-9,12" or "all"',
            )
        if not dash:
            named.add(int(first))
        chosen.update(range(int(first), int(last or first) + 1))
    kept = sorted(i for i in chosen if depth is None or i < depth)
    if not kept:
        raise user_error(
            f"{text!r} names none of the model's {depth} global layers",
            where="--layers",
            hint=f"use 0 to {(depth or 1) - 1}",
        )
    if absent := sorted(named - set(kept)):
        raise user_error(
            f"the model has no global layer {absent[0]}",
            where="--layers",
            hint=f"use 0 to {(depth or 1) - 1}",
        )
    return tuple(kept)


@dataclass(frozen=True)
class SparsityChanges:
    """Fields of `Sparsity` to change for one run; None keeps the bundle's own."""

    selector: Selector | None = None
    tau: float | None = None
    tau_low: float | None = None
    low_precision: bool | None = None
    layers: str | None = None
    keep_ratio: float | None = None
    cdf: float | None = None
    min_neighbours: int | None = None
    reference: bool | None = None
    order: PatchOrder | None = None

    def apply(self, sparsity: Sparsity) -> Sparsity:
        """`sparsity` with the fields that are given here.

        A new tau below the old tau_low takes tau_low down with it, so that `--tau` alone is enough.
        """
        given = {k: v for k, v in vars(self).items() if v is not None}
        low, tau = sparsity.tau_low, given.get("tau", sparsity.tau)
        if "tau_low" not in given and low is not None and low > tau:
            given["tau_low"] = tau
        return replace(sparsity, **given)


BackendName = Literal["onnxruntime", "onnxruntime-tensorrt", "tensorrt"]


@dataclass(frozen=True)
class BackendOptions:
    """Where a bundle's stages run.

    Attributes:
        backend: `onnxruntime`; `onnxruntime-tensorrt`, ONNX Runtime with its TensorRT provider;
            `tensorrt`, the plans of `covis build`.
        provider: of `onnxruntime`: `cpu`, or `cuda`, which needs onnxruntime-gpu. The others
            always run on a GPU.
        device: which GPU, as CUDA counts them.
        plans: folder of the plans; the bundle's own `plans` where not given.
        plugin: the TensorRT plugin library, where it is not the package's own.
        trust_plan: sha256 of plans to run although this user did not build them. A plan is
            executable code.
        cuda_graphs: replay CUDA graphs in the stages that run in chunks (`tensorrt`).
    """

    backend: BackendName = "onnxruntime"
    provider: Literal["cpu", "cuda"] = "cpu"
    device: int = 0
    plans: Path | None = None
    plugin: Path | None = None
    trust_plan: tuple[str, ...] = ()
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        if self.device < 0:
            raise user_error(f"{self.device} is negative", where="--device", hint="use 0 or more")

    @property
    def on_gpu(self) -> bool:
        """Whether the stages run on a GPU."""
        return self.backend != "onnxruntime" or self.provider == "cuda"


_MOST_THREADS = 1024  # each stage has so many: more fill the memory with stacks


@dataclass(frozen=True)
class RunOptions:
    """How a pipeline runs; says nothing about the result.

    Attributes:
        chunk: frames that encoder and heads take at once; bounds their memory.
        threads: of ONNX Runtime; 0 takes every core.
        kernel: use the CPU kernel of the ops where it was built.
        probes: queries on which the share of attention mass that the selector keeps is measured,
            into `Scene.sparsity`; 0 measures nothing.
        backend: where the stages run.
    """

    chunk: int = 2
    threads: int = 0
    kernel: bool = True
    probes: int = 0
    backend: BackendOptions = field(default_factory=BackendOptions)

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise user_error(f"{self.chunk} is below 1", where="--chunk", hint="use 1 or more")
        if self.probes < 0:
            raise user_error(
                f"{self.probes} is negative", where="--probes", hint="0 measures nothing"
            )
        if self.threads < 0:
            raise user_error(f"{self.threads} is negative", where="--threads", hint="0 takes all")
        if self.threads > _MOST_THREADS:
            raise user_error(
                f"{self.threads} is above {_MOST_THREADS:,}", where="--threads", hint="0 takes all"
            )
