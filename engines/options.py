"""Options shared by export, engines and runtime: the same object is CLI, API and manifest entry."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from covis.engines.errors import user_error
from covis.engines.limits import DEVICE, TEXT, THREADS, VIEWS, VIEWS_AT_ONCE

Selector = Literal["dense", "saliency", "pooled", "both"]
PatchOrder = Literal["raster", "hilbert"]

MOST_VIEWS_AT_ONCE = VIEWS_AT_ONCE.most
_RANGE = re.compile("[0-9]{1,4}(-[0-9]{1,4})?")
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Sparsity:
    """Parts of global attention that are computed, and their precision.

    Every field can be changed at run time: all of them are inputs of a bundle's graphs.

    Attributes:
        selector: Selector of the parts to compute. `dense`: everything. `saliency`: pairs of
            views whose similarity reaches tau. `pooled`: blocks of tokens, chosen in each layer by
            pooled queries and keys. `both`: pooled blocks inside the pairs that saliency keeps.
        tau: Cosine similarity, 0 to 1, from which a pair of views is computed in full; 0 keeps
            all pairs. Lower it where views that overlap are skipped.
        tau_low: Cosine similarity, 0 to tau, below which a pair is skipped; pairs between it and
            tau are computed at low precision. Without it the limit is tau, or 0 with
            low precision.
        low_precision: Compute pairs below tau at low precision instead of skipping them.
        layers: Global layers to make sparse, as ranges and lists such as "0-9" or "0,2,4-7".
            Every layer is "all", and no layer is "none".
        keep_ratio: Share of key blocks, 0 to 1, that the pooled selector keeps for each query
            block; at least one block is kept.
        cdf: Cumulated softmax mass, 0 to 1, up to which the pooled selector keeps blocks; 0
            leaves the choice to the keep ratio. With both, the larger selection counts.
        min_neighbours: Number of most similar other views that each view keeps, even below tau.
        reference: Keep all pairs of the reference view (view 0) in models that have one.
        order: Order of a frame's patches in the blocks of the pooled selector: `raster`, row by
            row, or `hilbert`, along a Hilbert curve, which makes blocks compact in the image.
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
        if not 0 <= self.min_neighbours <= VIEWS.most:
            raise user_error(
                f"{self.min_neighbours} is not in [0, {VIEWS}]",
                where="--min-neighbours",
                hint="give a number of views",
            )
        parse_layers(self.layers)

    @property
    def skip_below(self) -> float:
        """Similarity below which a pair is skipped: the lower of the two thresholds."""
        if self.tau_low is not None:
            return self.tau_low
        return 0.0 if self.low_precision else self.tau


def parse_layers(text: str, depth: int | None = None) -> tuple[int, ...]:
    """Read layer indices from "0-9", "0,2,4-7", "all" or "none", ascending, without repeats.

    Indices past `depth` are dropped from ranges, so that "0-9" also fits a small model. A single
    layer that the model does not have is rejected, and so is a list that leaves no layer at all.
    """
    if len(text) > TEXT.most:
        raise user_error(
            f"is longer than {TEXT}", where="--layers", hint='write ranges such as "0-9", or "all"'
        )
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
    """Fields of `Sparsity` to change for one run; None keeps the value of the bundle.

    `Sparsity` documents the fields, and the command line takes its help from there.
    """

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
        """Return `sparsity` with the fields that are not None here.

        A new tau below the old tau_low lowers tau_low as well, so that `--tau` alone is enough.
        """
        changes = {k: v for k, v in vars(self).items() if v is not None}
        low, tau = sparsity.tau_low, changes.get("tau", sparsity.tau)
        if "tau_low" not in changes and low is not None and low > tau:
            changes["tau_low"] = tau
        return replace(sparsity, **changes)


BackendName = Literal["cpu", "cuda", "ort-tensorrt", "tensorrt"]


@dataclass(frozen=True)
class BackendOptions:
    """Backend that runs the stages of a bundle, and its settings.

    Attributes:
        backend: Backend that runs the stages. `cpu` and `cuda`: ONNX Runtime, for `cuda` from
            onnxruntime-gpu. `ort-tensorrt`: ONNX Runtime with its TensorRT provider. `tensorrt`:
            TensorRT itself, with the plans of `covis build`.
        device: Index of the GPU to run on, as CUDA counts them, from 0.
        plans: Folder of the plans to run with `tensorrt`.
        plugin: TensorRT plugin library to load with `tensorrt` or `ort-tensorrt`.
        trust_plan: Sha256 of each plan to run with `tensorrt` although another user built it. A
            plan is executable code, so trust only plans whose origin you know.
        cuda_graphs: Replay CUDA graphs in the stages that run in chunks with `tensorrt`, to save
            the time of kernel launches.
    """

    backend: BackendName = "cpu"
    device: int = 0
    plans: Path | None = None
    plugin: Path | None = None
    trust_plan: tuple[str, ...] = ()
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        if self.backend not in get_args(BackendName):
            raise user_error(
                f"{self.backend!r} is unknown",
                where="--backend",
                hint=f"use one of {', '.join(get_args(BackendName))}",
            )
        if self.device < 0:
            raise user_error(f"{self.device} is negative", where="--device", hint="use 0 or more")
        if self.device > DEVICE.most:
            raise user_error(
                f"{self.device} is above {DEVICE}", where="--device", hint="see nvidia-smi"
            )
        for digest in self.trust_plan:
            if not _SHA256.fullmatch(digest):
                raise user_error(
                    f"{digest!r} is no sha256",
                    where="--trust-plan",
                    hint="give the 64 digits that the refusal of the plan names",
                )
        for option, value in (("--plans", self.plans), ("--trust-plan", self.trust_plan)):
            if value and self.backend != "tensorrt":
                raise user_error(
                    f"has no meaning with --backend {self.backend}, which runs no plans",
                    where=option,
                    hint="give --backend tensorrt with it, or leave it out",
                )

    @property
    def on_gpu(self) -> bool:
        """True for a backend that runs the stages on a GPU."""
        return self.backend != "cpu"

    @property
    def library(self) -> str:
        """Name of the backend in reports and records, which name the device beside it.

        Records keep these names, which older versions wrote, so that old and new ones compare.
        """
        names = {"tensorrt": "tensorrt", "ort-tensorrt": "onnxruntime-tensorrt"}
        return names.get(self.backend, "onnxruntime")


CPU_CHUNK = 2
"""Frames at once on a CPU: with 8 or 16, covis-mini takes a third more time and more memory."""
GPU_CHUNK = 16
"""Frames at once on a GPU: the size that the plans of `covis build` are tuned for by default."""


@dataclass(frozen=True)
class RunOptions:
    """Settings of a run; none of them changes the result by more than rounding.

    This is the one definition of these options: the commands that run a bundle take it as it is.
    Without `chunk`, the backend decides: `CPU_CHUNK` (2) on a CPU, where larger chunks take more
    memory and no less time, and `GPU_CHUNK` (16) on a GPU, for which plans are built by default.

    Attributes:
        chunk: Number of frames that the encoder and the heads take at once. It bounds their
            memory; use 1 where memory is short.
        threads: Number of threads of ONNX Runtime, up to 1,024; 0 takes every core.
        kernel: Use the CPU kernel of the sparse ops where it was built; without it the ops run as
            ordinary ONNX operators, slower and in more memory.
        probes: Number of queries on which to measure the share of attention mass that the
            selector keeps, for `Scene.sparsity`; 0 measures nothing.
        backend: Backend that runs the stages, and its options.
    """

    chunk: int | None = None
    threads: int = 0
    kernel: bool = True
    probes: int = 0
    backend: BackendOptions = field(default_factory=BackendOptions)

    def __post_init__(self) -> None:
        if self.chunk is not None and self.chunk < 1:
            raise user_error(f"{self.chunk} is below 1", where="--chunk", hint="use 1 or more")
        for option, value in (("--chunk", self.chunk or 0), ("--probes", self.probes)):
            if value > VIEWS.most:
                raise user_error(
                    f"{value} is above {VIEWS}", where=option, hint="give a smaller number"
                )
        if self.probes < 0:
            raise user_error(
                f"{self.probes} is negative", where="--probes", hint="0 measures nothing"
            )
        if self.threads < 0:
            raise user_error(f"{self.threads} is negative", where="--threads", hint="0 takes all")
        if self.threads > THREADS.most:
            raise user_error(
                f"{self.threads} is above {THREADS}", where="--threads", hint="0 takes all"
            )

    @property
    def frames_at_once(self) -> int:
        """Number of frames in a chunk: `chunk`, or the default of the backend."""
        if self.chunk is not None:
            return self.chunk
        return GPU_CHUNK if self.backend.on_gpu else CPU_CHUNK
