"""The checks of both sittings as tests, where a GPU is local: `pytest -m gpu tests/gpu`."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from covis.engines.errors import CovisError
from covis.engines.system.gpu import find_gpu
from covis.engines.system.native import PLUGIN_LIBRARY, find_library
from covis.engines.tensorrt.module import import_tensorrt
from covis.export.ops.cuda.binding import load_kernels
from tests.gpu.engine_checks import CHECKS, STRIPPED, check
from tests.gpu.engine_checks.place import BUILD, Place, command
from tests.gpu.engines_day import FIRST, OTHERS, UNPROVEN
from tests.gpu.kernel_units import kernel_units
from tests.gpu.tiny_bundles import BUNDLES, export_tiny
from tests.gpu.units import AbsentError

pytestmark = pytest.mark.gpu
STAGES = (*FIRST, *OTHERS)


def kernel_names() -> list[str]:
    """The kernel checks of any GPU; listing them calls nothing in the library."""
    anything = ctypes.CDLL(None)
    lists = [kernel_units(anything, hopper=hopper) for hopper in (True, False)]
    return list({name: None for units in lists for name in units})


@pytest.fixture(scope="module")
def units() -> dict[str, Any]:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    try:
        library = load_kernels()
    except CovisError as error:
        pytest.skip(str(error))
    return {**kernel_units(library, hopper=torch.cuda.get_device_capability() == (9, 0))}


@pytest.mark.parametrize("name", kernel_names())
def test_kernel(units: dict[str, Any], name: str) -> None:
    if name not in units:
        pytest.skip("this GPU has no such kernel")
    units[name]()


@dataclass(frozen=True)
class Built:
    """The place of the engine checks, and what each build said: exit code and errors."""

    place: Place
    said: dict[str, tuple[int, str]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The tiny bundles with their engines; where the proof refuses one, it is built without."""
    try:
        find_gpu()
        import_tensorrt()
    except CovisError as error:
        pytest.skip(str(error))
    plugin = find_library(PLUGIN_LIBRARY)
    if plugin is None:
        pytest.skip("the TensorRT plugin is not built; see docs/how-to/tensorrt.md")
    place = Place(tmp_path_factory.mktemp("engines"), plugin)
    for name in BUNDLES:
        export_tiny(place.folder, name)
    said: dict[str, tuple[int, str]] = {}
    for stage in STAGES:
        said[stage] = build(place, stage)
        if said[stage][0] != 0:
            build(place, stage, *UNPROVEN)
    for stage in STRIPPED:
        more = ["--stripWeights", "--cache", str(place.stripped)]
        said[f"{stage}, stripped"] = build(place, stage, *more)
    return Built(place, said)


def build(place: Place, stage: str, *more: str) -> tuple[int, str]:
    words = [*BUILD, *place.plugin_words("--dynamicPlugins"), *more]
    code, _, err = command("build", place.bundle, "--stages", stage, *words)
    return code, err[-2000:]


@pytest.mark.parametrize("stage", [*STAGES, *(f"{stage}, stripped" for stage in STRIPPED)])
def test_build_and_proof(built: Built, stage: str) -> None:
    code, err = built.said[stage]
    assert code == 0, err


@pytest.mark.parametrize("name", CHECKS)
def test_engine(built: Built, name: str) -> None:
    try:
        check(name)(built.place)
    except AbsentError as missing:
        pytest.skip(str(missing))
