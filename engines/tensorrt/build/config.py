"""Translate build options to TensorRT's flags, pools and attributes, looked up by name.

Enums differ between 10.6 and 11.x; a member that a version lacks is an error with its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from covis.engines.errors import user_error
from covis.engines.tensorrt.plans.record import EngineOptions

_VERBOSITY: Final = {
    "layer_names_only": "LAYER_NAMES_ONLY",
    "detailed": "DETAILED",
    "none": "NONE",
}
_COMPATIBILITY: Final = {
    "none": "NONE",
    "ampere+": "AMPERE_PLUS",
    "sameComputeCapability": "SAME_COMPUTE_CAPABILITY",
}


@dataclass(frozen=True)
class BuilderSettings:
    """Values for an `IBuilderConfig`.

    Attributes:
        flags: `BuilderFlag` members: True sets a flag, False clears it.
        pools: Limit in bytes of each `MemoryPoolType` member.
        attributes: Values of the configuration object's attributes, by name.
        previews: `PreviewFeature` members to turn on.
    """

    flags: dict[Any, bool]
    pools: dict[Any, int]
    attributes: dict[str, Any]
    previews: tuple[Any, ...] = ()

    def apply(self, config: Any) -> None:
        """Write the values into a configuration."""
        for flag, is_set in self.flags.items():
            (config.set_flag if is_set else config.clear_flag)(flag)
        for pool, size in self.pools.items():
            config.set_memory_pool_limit(pool, size)
        for name, value in self.attributes.items():
            setattr(config, name, value)
        for feature in self.previews:
            config.set_preview_feature(feature, True)


def builder_settings(trt: Any, options: EngineOptions) -> BuilderSettings:
    """Translate `options` to members of the `tensorrt` module `trt`.

    Raises:
        CovisError: this TensorRT lacks one of them (exit code 2).
    """
    flags = {_member(trt, "BuilderFlag", "TF32", "--tf32"): options.tf32}
    if options.strip_weights:
        flags[_member(trt, "BuilderFlag", "STRIP_PLAN", "--stripWeights")] = True
        if not options.refit:  # as trtexec: only identical weights can be refitted
            flags[_member(trt, "BuilderFlag", "REFIT_IDENTICAL", "--stripWeights")] = True
    if options.refit:
        flags[_member(trt, "BuilderFlag", "REFIT", "--refit")] = True
    pools = {
        _member(trt, "MemoryPoolType", name, "--memPoolSize"): size
        for name, size in (
            ("WORKSPACE", options.workspace),
            ("TACTIC_SHARED_MEMORY", options.tactic_shared_memory),
        )
        if size is not None
    }
    compatibility = _COMPATIBILITY[options.hardware_compatibility]
    attributes = {
        "builder_optimization_level": options.builder_optimization_level,
        "profiling_verbosity": _member(
            trt,
            "ProfilingVerbosity",
            _VERBOSITY[options.profiling_verbosity],
            "--profilingVerbosity",
        ),
        "hardware_compatibility_level": _member(
            trt, "HardwareCompatibilityLevel", compatibility, "--hardwareCompatibilityLevel"
        ),
    }
    # Without it a context allocates the memory of the profile's maximum for any number of views.
    resize = getattr(trt.PreviewFeature, "RUNTIME_ACTIVATION_RESIZE_10_10", None)  # from 10.10 on
    return BuilderSettings(flags, pools, attributes, () if resize is None else (resize,))


def network_flags(trt: Any) -> int:
    """Return the flags for strong typing: one in 10.x; none in 11, which has no other typing."""
    if int(str(trt.__version__).split(".")[0]) >= 11:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _member(trt: Any, enum: str, name: str, option: str) -> Any:
    member = getattr(getattr(trt, enum), name, None)
    if member is None:
        raise user_error(
            f"TensorRT {trt.__version__} has no {enum}.{name}",
            where=option,
            hint="leave the option out, or install a newer TensorRT",
        )
    return member
