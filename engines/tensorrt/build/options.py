"""Options of `covis build`, with trtexec's names where trtexec has the same option."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import tyro

from covis.engines.errors import user_error
from covis.engines.tensorrt.plans.record import EngineOptions

Verbosity = Literal["layer_names_only", "detailed", "none"]
Compatibility = Literal["none", "ampere+", "sameComputeCapability"]

_POOL: Final = re.compile(r"(?P<name>\w+):(?P<number>[0-9]+(\.[0-9]+)?)(?P<unit>[BKMG]?)")
_UNITS: Final = {"B": 1, "K": 1 << 10, "M": 1 << 20, "": 1 << 20, "G": 1 << 30}
_POOLS: Final = ("workspace", "tacticSharedMem")


def _default(text: str) -> object:
    """Return the annotation of an option whose None means a value that help shows as this text."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {text})")


@dataclass(frozen=True)
class BuildOptions:
    """Build TensorRT engines: one plan for each stage of a bundle, or for one ONNX file.

    Names in camelCase are trtexec's own and mean the same.

    Attributes:
        bundle: Bundle to build for: a folder that `covis export` wrote. Give it or --onnx.
        views: Range of views MIN:OPT:MAX of the stages that take all views at once.
        chunk: Range of frames MIN:OPT:MAX of the stages that run in chunks. One number is the
            largest and the optimum.
        probes: Range of queries MIN:OPT:MAX on which the kept attention mass can be measured. More
            queries cost memory in proportion to the number of views.
        stages: Names of the stages to build, separated by commas.
        cache: Folder that keeps the plans.
        device: Index of the GPU to build for, as CUDA counts them, from 0.
        tf32: Allow TF32 (10 bits of mantissa) in float32 products.
        force: Build even where the cache contains the plan already.
        print_trtexec: Print the trtexec lines that would do the same, and build nothing; requires
            no TensorRT.
        parser_onnx: Folder to write the graphs to in the form that TensorRT's parser reads, for
            trtexec.
        onnx: ONNX file to build instead of a bundle.
        saveEngine: File to write the plan of --onnx to; its record goes beside it.
        minShapes: Smallest shapes of the inputs of --onnx, such as
            images:1x3x392x518,tau:scalar.
        optShapes: Shapes of the inputs of --onnx that the engine is tuned for.
        maxShapes: Largest shapes of the inputs of --onnx.
        memPoolSize: Limits of memory pools, such as workspace:4G; M where there is no unit.
        timingCacheFile: File of measured kernel times, to read and to write.
        builderOptimizationLevel: Effort of the builder, from 0 (quick) to 5 (thorough).
        staticPlugins: Plugin library to load by dlopen; it registers itself.
        dynamicPlugins: Plugin library to load through TensorRT's registry.
        profilingVerbosity: Detail of the layer information in the engine. Below `detailed`, covis
            cannot prove that the engine computes as requested.
        hardwareCompatibilityLevel: Other GPUs that the plan also runs on, at some cost of speed.
        stripWeights: Leave out the weights that can be filled in from the bundle's file when the
            plan is loaded.
        refit: Let weights be replaced later.
        exportLayerInfo: JSON file to write the engine inspector's layer information to. Several
            stages have a file each, with the stage's name before the suffix.
        verbose: Print the whole log of TensorRT.
    """

    bundle: Annotated[
        tyro.conf.Positional[Path | None],
        tyro.conf.arg(metavar="BUNDLE", help_behavior_hint="(required without --onnx)"),
    ] = None
    views: str = "1:100:500"
    chunk: str = "16"
    probes: str = "1"
    stages: Annotated[str | None, _default("all")] = None
    cache: Annotated[Path | None, _default("the bundle's own folder `plans`")] = None
    device: int = 0
    tf32: bool = False
    force: bool = False
    print_trtexec: bool = False
    parser_onnx: Annotated[Path | None, _default("none")] = None
    onnx: Annotated[Path | None, _default("none")] = None
    saveEngine: Annotated[Path | None, _default("none")] = None  # noqa: N815 - trtexec's names
    minShapes: Annotated[str | None, _default("none")] = None  # noqa: N815
    optShapes: Annotated[str | None, _default("none")] = None  # noqa: N815
    maxShapes: Annotated[str | None, _default("none")] = None  # noqa: N815
    memPoolSize: Annotated[str | None, _default("TensorRT's own limits")] = None  # noqa: N815
    timingCacheFile: Annotated[Path | None, _default("one beside the plans")] = None  # noqa: N815
    builderOptimizationLevel: int = 3  # noqa: N815
    staticPlugins: Annotated[Path | None, _default("none")] = None  # noqa: N815
    dynamicPlugins: Annotated[Path | None, _default("the one that covis installed")] = None  # noqa: N815
    profilingVerbosity: Verbosity = "detailed"  # noqa: N815
    hardwareCompatibilityLevel: Compatibility = "none"  # noqa: N815
    stripWeights: bool = False  # noqa: N815
    refit: bool = False
    exportLayerInfo: Annotated[Path | None, _default("none")] = None  # noqa: N815
    verbose: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.builderOptimizationLevel <= 5:
            raise user_error(
                f"{self.builderOptimizationLevel} is not in [0, 5]",
                where="--builderOptimizationLevel",
                hint="3 is TensorRT's own choice",
            )
        if (self.bundle is None) == (self.onnx is None):
            raise user_error("give a bundle or --onnx, one of the two", where="covis build")
        single = {
            "--saveEngine": self.saveEngine,
            "--minShapes": self.minShapes,
            "--optShapes": self.optShapes,
            "--maxShapes": self.maxShapes,
        }
        if self.onnx is None and (misplaced := [k for k, v in single.items() if v is not None]):
            raise user_error(
                "belongs to --onnx", where=misplaced[0], hint="a bundle takes --views, --chunk, --cache"
            )
        if self.onnx is not None and self.saveEngine is None:
            raise user_error("is missing", where="--saveEngine", hint="say where the plan goes")
        if self.staticPlugins and self.dynamicPlugins:
            raise user_error("give one of the two", where="--staticPlugins and --dynamicPlugins")
        parse_pools(self.memPoolSize)

    @property
    def plugin(self) -> Path | None:
        """Plugin library that the user named; None if there is none."""
        return self.staticPlugins or self.dynamicPlugins

    def engine_options(self) -> EngineOptions:
        """Return the options that change the engine, for the plan's record and its cache key."""
        pools = parse_pools(self.memPoolSize)
        return EngineOptions(
            builder_optimization_level=self.builderOptimizationLevel,
            workspace=pools.get("workspace"),
            tactic_shared_memory=pools.get("tacticSharedMem"),
            hardware_compatibility=self.hardwareCompatibilityLevel,
            profiling_verbosity=self.profilingVerbosity,
            refit=self.refit,
            strip_weights=self.stripWeights,
            tf32=self.tf32,
        )


def parse_pools(text: str | None) -> dict[str, int]:
    """Parse the size of each pool in bytes from "workspace:4G,tacticSharedMem:48K".

    Raises:
        CovisError: the syntax is wrong, a pool is unknown, or one is named twice.
    """
    pools: dict[str, int] = {}
    for entry in text.split(",") if text else []:
        found = _POOL.fullmatch(entry.strip())
        if found is None or found["name"] not in _POOLS or found["name"] in pools:
            raise user_error(
                f"{entry!r} is no memory pool",
                where="--memPoolSize",
                hint=f"write NAME:SIZE with NAME one of {', '.join(_POOLS)}, e.g. workspace:4G",
            )
        pools[found["name"]] = math.floor(float(found["number"]) * _UNITS[found["unit"]])
    return pools
