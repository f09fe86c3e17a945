"""NVIDIA's own TensorRT, on a machine without a GPU too: builder, parser, our plugin.

TensorRT's builder wants a driver unless a variable of the environment, which it reads when it is
made, lets it use the CPU alone. It then parses, types and optimises a network and asks the plugins
as always; only the kernels cannot be measured, and the build ends there with an error of the
device. An error before that is a fault of ours, on every machine.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from covis.engines.tensorrt import module as trt_module
from covis.engines.tensorrt.build.config import network_flags
from tests.tensorrt.build import PLUGIN, build_programs

# What a build without a device says first once nothing but kernels is left to choose. The builder
# then acts for compute capability 8.7, which has no FP8.
_NO_DEVICE = re.compile(
    r"queryFromDefaultDevice|no CUDA context is current|scopedCudaResources|Cuda Runtime"
    r'|cannot have type "myelinTypeFP8E4M3" for SM87'
)


def real_tensorrt() -> ModuleType:
    """Import the module; skip the calling test, with the reason, if that fails."""
    try:
        return importlib.import_module("tensorrt")
    except Exception as error:
        pytest.skip(f"the tensorrt module cannot be imported ({error})")


@cache
def has_device() -> bool:
    """Return True if an NVIDIA driver is present."""
    try:
        return int(ctypes.CDLL("libcuda.so.1").cuInit(0)) == 0
    except OSError:
        return False


def without_device() -> dict[str, str]:
    """Return the environment variables with which a builder can be created on this machine."""
    return {} if has_device() else {"TRT_INTERNAL_OPTIONS": " --cpu_only=1"}  # the blank counts


def plugin_library(*, other: bool = False) -> Path:
    """Build the plugin for the major version of the module, or for the `other` of 10 and 11."""
    major = int(real_tensorrt().__version__.partition(".")[0])
    return build_programs(major=21 - major if other else major, plugin_only=other) / PLUGIN


def start() -> tuple[Any, Any, Any]:
    """Return the module, a builder with the plugin loaded, and the logger, which stores errors."""
    trt = real_tensorrt()
    os.environ.update(without_device())
    log = trt_module.logger(lambda severity, text: None)
    trt_module.load_plugin(plugin_library())
    builder = _builder(trt, log)
    log.forget()
    return trt, builder, log


@cache
def _builder(trt: Any, log: Any) -> Any:
    return trt.Builder(log)


def parsed(graph: Path, mappings: ExitStack) -> Any:
    """Parse a graph with TensorRT, as `covis build` passes it to the parser.

    Args:
        graph: a bundle's graph, beside its weights.
        mappings: Keeps the mapped weights and the parser alive while the network is used.
    """
    from covis.engines.bundle.verified import verified_onnx
    from covis.engines.tensorrt.build.engine import parse_graph

    trt, builder, log = start()
    network = builder.create_network(network_flags(trt))
    parser = trt.OnnxParser(network, log)
    parse_graph(parser, verified_onnx(graph), mappings)
    mappings.callback(lambda parser: None, parser)
    return network


def skip_without_builder(errors: list[str]) -> None:
    """Skip the calling test if this TensorRT parses but cannot build without a GPU (11.2)."""
    if errors and "CPU-only builder is not supported" in errors[0]:
        pytest.skip("this TensorRT has no builder for machines without a GPU")


def stopped_at_the_device(errors: list[str]) -> None:
    """Assert that a build got as far as a machine without a GPU allows."""
    if has_device():
        assert not errors, errors
    else:
        assert errors and _NO_DEVICE.search(errors[0]), errors[:3]
