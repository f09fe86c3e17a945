"""Options shared by export, engines and runtime: the same object is CLI, API and manifest entry."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from covis.engines.errors import user_error
from covis.engines.layers import parse_layers
from covis.engines.limits import DEVICE, THREADS, VIEWS, VIEWS_AT_ONCE
from covis.engines.regime import Regime, parse_schedule

Selector = Literal["auto", "dense", "light", "saliency", "anchors", "pooled", "both"]
AnchorChoice = Literal["kcenter", "uniform", "random", "similar"]
PatchOrder = Literal["raster", "hilbert"]

MOST_VIEWS_AT_ONCE = VIEWS_AT_ONCE.most
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Sparsity:
    """Parts of global attention that are computed, and their precision.

    Every field can be changed at run time: all of them are inputs of a bundle's graphs.

    Attributes:
        selector: Selector of the parts to compute. `auto`: `dense`, `light` or `anchors`, by the
            number of views. `dense`: everything. `light`: few pairs of views in the first three
            eighths of the layers, and everything in the others. `saliency`: pairs of views whose
            similarity reaches tau. `anchors`: each view with the same few anchor views, with itself
            and with its most similar views. `pooled`: blocks of patches, chosen in each layer by
            pooled queries and keys. `both`: pooled blocks inside the pairs that saliency keeps.
        schedule: Regime of each global layer, in place of the selector's own, such as "0-1:self,
            2-8:anchors=10, 9-23:anchors=40+pooled=0.25" or "0-8:anchors=10, rest:dense". Regimes
            are dense, self (each view with itself alone), saliency, anchors and pooled. Every layer
            must be named, and "rest" names all others.
        anchors: Number of anchor views, 1 or more, to which every view attends. The early layers of
            the default schedule take 40 % of them. With more than there are views, every view is
            an anchor.
        anchor_choice: Rule that chooses the anchors. `kcenter`: views that differ from each other
            as much as possible. `uniform`: views evenly spaced in the order of the photos.
            `random`: random views. `similar`: no common anchors; each view keeps as many of its own
            most similar views instead.
        anchor_seed: Seed of random anchors, 0 or more.
        own_frame: Let each view attend to itself and to its most similar views in the layers with
            anchors. Without it, all views share one list of keys, unless a number of most similar
            views is given.
        tau: Cosine similarity, 0 to 1, from which saliency computes a pair of views in full; 0
            keeps all pairs. Lower it where views that overlap are skipped.
        tau_low: Cosine similarity, 0 to tau, below which saliency skips a pair; pairs between it
            and tau are computed at low precision. Without it the limit is tau, or 0 with
            low precision.
        low_precision: Compute pairs below tau, or outside the anchors, at low precision instead of
            skipping them.
        layers: Global layers to make sparse, as ranges and lists such as "0-9" or "0,2,4-7".
            Every layer is "all", and no layer is "none". The word "default" stands for layers 0 to
            9 with the selectors saliency, pooled and both, and for the layers of the schedule with
            light and anchors.
        keep_ratio: Share of key blocks, 0 to 1, that the pooled selector keeps for each query
            block; at least one block is kept.
        cdf: Cumulated softmax mass, 0 to 1, up to which the pooled selector keeps blocks; 0
            leaves the choice to the keep ratio. With both, the larger selection counts.
        min_neighbours: Number of most similar other views that each view keeps in any case. Without
            it, 4 in the layers with anchors (0 without the own frame), and 0 in those of saliency.
        reference: Keep all pairs of the reference view (view 0) in models that have one; in layers
            with anchors, those in which the others attend to it.
        order: Order of a frame's patches in the blocks of the pooled selector: `raster`, row by
            row, or `hilbert`, along a Hilbert curve, which makes blocks compact in the image.
        dense_up_to: Largest number of views for which `auto` computes everything.
        light_up_to: Largest number of views for which `auto` takes `light`; with more views it
            takes `anchors`.
    """

    selector: Selector = "auto"
    schedule: str = ""
    anchors: int = 25
    anchor_choice: AnchorChoice = "kcenter"
    anchor_seed: int = 0
    own_frame: bool = True
    tau: float = 0.9
    tau_low: float | None = None
    low_precision: bool = False
    layers: str = "default"
    keep_ratio: float = 0.25
    cdf: float = 0.0
    min_neighbours: int | None = None
    reference: bool = True
    order: PatchOrder = "raster"
    dense_up_to: int = 50
    light_up_to: int = 250

    def __post_init__(self) -> None:
        kinds = {"selector": Selector, "anchor_choice": AnchorChoice, "order": PatchOrder}
        for name, kind in kinds.items():
            if getattr(self, name) not in get_args(kind):
                raise user_error(
                    f"{getattr(self, name)!r} is unknown",
                    where=_option(name),
                    hint=f"use one of {', '.join(get_args(kind))}",
                )
        for name in ("tau", "keep_ratio", "cdf"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0.0 <= value <= 1.0):
                raise user_error(
                    f"{value} is not in [0, 1]",
                    where=_option(name),
                    hint="give a number from 0 to 1",
                )
        if self.tau_low is not None and not 0.0 <= self.tau_low <= self.tau:
            raise user_error(
                f"{self.tau_low} is not in [0, tau = {self.tau}]",
                where="--tau-low",
                hint=f"give a number from 0 to {self.tau}",
            )
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= VIEWS.most:
                raise user_error(
                    f"{value} is not in [{least}, {VIEWS}]",
                    where=_option(name),
                    hint=_NO_ANCHORS if name == "anchors" else "give a number of views",
                )
        if not 0 <= self.anchor_seed < 2**63:
            raise user_error(f"{self.anchor_seed} is no seed", where="--anchor-seed", hint="e.g. 0")
        if self.light_up_to < self.dense_up_to:
            raise user_error(
                f"{self.light_up_to} is below --dense-up-to {self.dense_up_to}",
                where="--light-up-to",
                hint="the numbers of views must rise: dense, then light, then anchors",
            )
        parse_layers(self.layers)
        if self.schedule:
            parse_schedule(self.schedule)
        if self.selector == "auto":
            self._refuse_unread()

    def _refuse_unread(self) -> None:
        """Reject an option that `auto` would ignore without a word."""
        for name, selector in _UNREAD_BY_AUTO.items():
            if getattr(self, name) != getattr(Sparsity, name):
                raise user_error(
                    f"has no effect with the selector auto, but is {getattr(self, name)}",
                    where=_option(name),
                    hint=f"give the selector, e.g. {selector}, with it",
                )

    def skip_below(self, tau: float) -> float:
        """Return the similarity below which a layer of saliency with threshold tau skips a pair."""
        if self.tau_low is not None:
            return min(tau, self.tau_low)
        return 0.0 if self.low_precision else tau

    @property
    def anchor_neighbours(self) -> int:
        """Number of most similar views that each view keeps beside the anchors."""
        if self.min_neighbours is not None:
            return self.min_neighbours
        return ANCHOR_NEIGHBOURS if self.own_frame else 0


ANCHOR_NEIGHBOURS = 4
"""Most similar views that each view keeps beside the anchors, unless the user gives a number."""
_COUNTS = {"anchors": 1, "min_neighbours": 0, "dense_up_to": 0, "light_up_to": 0}
_UNREAD_BY_AUTO = {
    "schedule": "anchors",
    "tau": "saliency",
    "tau_low": "saliency",
    "layers": "saliency",
    "keep_ratio": "pooled",
    "cdf": "pooled",
}
_NO_ANCHORS = "for layers without anchors use the regime self in --schedule"


def _option(field_name: str) -> str:
    return f"--{field_name.replace('_', '-')}"


@dataclass(frozen=True)
class SparsityChanges:
    """Fields of `Sparsity` to change for one run; None keeps the value of the bundle.

    `Sparsity` documents the fields, and the command line takes its help from there.
    """

    selector: Selector | None = None
    schedule: str | None = None
    anchors: int | None = None
    anchor_choice: AnchorChoice | None = None
    anchor_seed: int | None = None
    own_frame: bool | None = None
    tau: float | None = None
    tau_low: float | None = None
    low_precision: bool | None = None
    layers: str | None = None
    keep_ratio: float | None = None
    cdf: float | None = None
    min_neighbours: int | None = None
    reference: bool | None = None
    order: PatchOrder | None = None
    dense_up_to: int | None = None
    light_up_to: int | None = None

    def apply(self, sparsity: Sparsity) -> Sparsity:
        """Return `sparsity` with the fields that are not None here.

        What is given wins over what the bundle chose by itself:
        - A selector or layers replace the bundle's schedule, and so does an option that none of its
          regimes reads.
        - An option that the selector does not read chooses one that does.
        - A new tau below the old tau_low lowers tau_low as well, so that `--tau` alone is enough;
          a dense_up_to above the old light_up_to raises that one.
        """
        changes = {k: v for k, v in vars(self).items() if v is not None}
        if changes.get("selector") == "auto":
            sparsity = replace(sparsity, **{n: getattr(Sparsity, n) for n in _UNREAD_BY_AUTO})
        elif "schedule" not in changes and _replaces(changes, sparsity.schedule):
            changes["schedule"] = ""
        if "selector" not in changes:
            changes["selector"] = _asked_for(changes, sparsity)
        low, tau = sparsity.tau_low, changes.get("tau", sparsity.tau)
        if "tau_low" not in changes and low is not None and low > tau:
            changes["tau_low"] = tau
        if "light_up_to" not in changes:
            changes["light_up_to"] = max(sparsity.light_up_to, changes.get("dense_up_to", 0))
        return replace(sparsity, **changes)


_ANCHORS: tuple[Selector, ...] = ("anchors", "light")
_SALIENCY: tuple[Selector, ...] = ("saliency", "both")
_POOLED: tuple[Selector, ...] = ("pooled", "both")
_READERS: Mapping[str, tuple[Selector, ...]] = {
    **dict.fromkeys(("anchors", "anchor_choice", "anchor_seed", "own_frame"), _ANCHORS),
    **dict.fromkeys(("tau", "tau_low"), _SALIENCY),
    **dict.fromkeys(("keep_ratio", "cdf"), _POOLED),
    "low_precision": (*_ANCHORS, *_SALIENCY),
    "layers": (*_ANCHORS, *_SALIENCY, "pooled"),
}
"""Selectors that read an option, for the options that only some of them read."""


def _replaces(changes: Collection[str], schedule: str) -> bool:
    """Return whether the options of these names take the place of a schedule."""
    if {"selector", "layers"} & set(changes):
        return True
    regimes = parse_schedule(schedule) if schedule else ()
    read: set[str] = set()
    for regime in regimes:
        if regime.kind == "saliency":
            read |= {"tau_low", *(["tau"] if regime.tau is None else [])}
        if regime.kind == "anchors":
            read |= {"anchor_choice", "anchor_seed", "own_frame"}
            read |= {"anchors"} if regime.anchors is None else set()
        if regime.pooled:
            read |= {"cdf", *(["keep_ratio"] if regime.keep_ratio is None else [])}
    return not (_READERS.keys() & set(changes)) - {"low_precision"} <= read


def _asked_for(changes: Mapping[str, Any], sparsity: Sparsity) -> Selector:
    """Return the selector that reads the changed options: the present one, if it does."""
    selector = sparsity.selector
    if changes.get("schedule"):
        return schedule_selector(parse_schedule(changes["schedule"]))
    if changes.get("schedule", sparsity.schedule):
        return selector  # that schedule stays in force, and reads them
    given = _READERS.keys() & changes.keys()
    if all(selector in _READERS[name] for name in given):
        return selector
    if any(_READERS[name] is _ANCHORS for name in given):
        return "anchors"
    pooled = any(_READERS[name] is _POOLED for name in given)
    saliency = any(name not in ("keep_ratio", "cdf") for name in given)
    pooled, saliency = pooled or selector in _POOLED, saliency or selector in _SALIENCY
    return "both" if saliency and pooled else "saliency" if saliency else "pooled"


def schedule_selector(regimes: Collection[Regime]) -> Selector:
    """Return the selector that a schedule extends: the most elaborate of its regimes."""
    kinds = {regime.kind for regime in regimes}
    if "anchors" in kinds or "self" in kinds:
        return "anchors"
    pooled = any(regime.pooled for regime in regimes)
    if "saliency" in kinds:
        return "both" if pooled else "saliency"
    return "pooled" if pooled else "dense"


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
