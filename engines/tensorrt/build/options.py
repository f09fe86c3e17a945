"""Options of `covis build`: trtexec's words, and what they mean to TensorRT's builder."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import tyro

from covis.engines.errors import user_error
from covis.engines.tensorrt.plans.record import EngineOptions

Verbosity = Literal["layer_names_only", "detailed", "none"]
Compatibility = Literal["none", "ampere+", "sameComputeCapability"]

_POOL: Final = re.compile(r"(?P<name>\w+):(?P<number>[0-9]+(\.[0-9]+)?)(?P<unit>[BKMG]?)")
_UNITS: Final = {"B": 1, "K": 1 << 10, "M": 1 << 20, "": 1 << 20, "G": 1 << 30}
_POOLS: Final = ("workspace", "tacticSharedMem")


@dataclass(frozen=True)
class BuildOptions:
    """Build TensorRT engines: one plan for each stage of a bundle, or for one ONNX file.

    Names in camelCase are trtexec's own and mean the same.

    Attributes:
        bundle: a folder made by `covis export`; or give --onnx.
        views: views MIN:OPT:MAX that the stages that see all views are built for.
        chunk: frames MIN:OPT:MAX of the stages that run in chunks; one number is the maximum.
        probes: queries MIN:OPT:MAX on which the kept attention mass can be measured; more of them
            cost memory in proportion to the number of views.
        stages: names of the stages to build, separated by commas; all where not given.
        cache: folder for the plans; the bundle's own `plans` where not given.
        device: the GPU to build for, as CUDA counts them.
        tf32: let float32 products be computed in TF32 (10 bits of mantissa).
        force: build even where the cache holds the plan already.
        print_trtexec: only print the trtexec lines that would do the same; needs no TensorRT.
        parser_onnx: folder to write the graphs to as TensorRT's parser gets them, for trtexec.
        onnx: a single ONNX file to build instead of a bundle.
        saveEngine: where the plan of --onnx goes; its record goes beside it.
        minShapes: smallest shapes of the inputs of --onnx, e.g. images:1x3x392x518,tau:scalar.
        optShapes: shapes of those inputs that the engine is tuned for.
        maxShapes: largest shapes of those inputs.
        memPoolSize: limits of memory pools, e.g. workspace:4G (M where there is no unit).
        timingCacheFile: file of measured kernel times; one beside the plans where not given.
        builderOptimizationLevel: 0 (quick) to 5 (thorough).
        staticPlugins: plugin library, loaded by dlopen; it registers itself.
        dynamicPlugins: plugin library, loaded through TensorRT's registry; covis's own where
            neither is given.
        profilingVerbosity: what the engine tells of its layers; less than `detailed` cannot be
            proven to be what was asked for.
        hardwareCompatibilityLevel: other GPUs that the plan also runs on, at some cost.
        stripWeights: leave out the weights that the bundle's file can fill in when loading.
        refit: let weights be replaced later.
        exportLayerInfo: file for the engine inspector's layer information, as JSON; where several
            stages are built, each has its own, with its name before the suffix.
        verbose: print TensorRT's whole log.
    """

    bundle: tyro.conf.Positional[Path | None] = None
    views: str = "1:100:500"
    chunk: str = "16"
    probes: str = "1"
    stages: str | None = None
    cache: Path | None = None
    device: int = 0
    tf32: bool = False
    force: bool = False
    print_trtexec: bool = False
    parser_onnx: Path | None = None
    onnx: Path | None = None
    saveEngine: Path | None = None  # noqa: N815 - trtexec's names
    minShapes: str | None = None  # noqa: N815
    optShapes: str | None = None  # noqa: N815
    maxShapes: str | None = None  # noqa: N815
    memPoolSize: str | None = None  # noqa: N815
    timingCacheFile: Path | None = None  # noqa: N815
    builderOptimizationLevel: int = 3  # noqa: N815
    staticPlugins: Path | None = None  # noqa: N815
    dynamicPlugins: Path | None = None  # noqa: N815
    profilingVerbosity: Verbosity = "detailed"  # noqa: N815
    hardwareCompatibilityLevel: Compatibility = "none"  # noqa: N815
    stripWeights: bool = False  # noqa: N815
    refit: bool = False
    exportLayerInfo: Path | None = None  # noqa: N815
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
        if self.onnx is None and (given := [k for k, v in single.items() if v is not None]):
            raise user_error(
                "belongs to --onnx", where=given[0], hint="a bundle takes --views, --chunk, --cache"
            )
        if self.onnx is not None and self.saveEngine is None:
            raise user_error("is missing", where="--saveEngine", hint="say where the plan goes")
        if self.staticPlugins and self.dynamicPlugins:
            raise user_error("give one of the two", where="--staticPlugins and --dynamicPlugins")
        parse_pools(self.memPoolSize)

    @property
    def plugin(self) -> Path | None:
        """The plugin library that was named, if any."""
        return self.staticPlugins or self.dynamicPlugins

    def engine_options(self) -> EngineOptions:
        """What of this changes the engine, for the plan's record and its key in the cache."""
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
    """Bytes by pool from trtexec's words, e.g. "workspace:4G,tacticSharedMem:48K".

    Raises:
        CovisError: another spelling, an unknown pool, or one named twice.
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
