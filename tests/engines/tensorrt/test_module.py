"""Every use of TensorRT compared with the real module: enums, attributes, classes, registry.

make trt
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from covis.engines.bundle.bundle import sha256_of
from covis.engines.errors import CovisError, ExitCode
from covis.engines.system.native import PLUGIN_LIBRARY, find_kernels_of, find_library
from covis.engines.tensorrt import module as trt_module
from covis.engines.tensorrt.build.config import builder_settings, network_flags
from covis.engines.tensorrt.build.progress import SilentPhases, monitor
from covis.engines.tensorrt.plans.record import EngineOptions
from tests.places import ROOT
from tests.tensorrt.real import plugin_library, real_tensorrt


@pytest.fixture
def trt() -> types.ModuleType:
    return real_tensorrt()


@pytest.mark.trt
def test_version(trt: Any) -> None:
    assert trt_module.import_tensorrt() is trt
    assert ".".join(map(str, trt_module.tensorrt_version())) == trt.__version__.split("+")[0]


@pytest.mark.trt
@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({}, {"TF32": False}),
        ({"tf32": True}, {"TF32": True}),
        ({"refit": True}, {"TF32": False, "REFIT": True}),
        ({"strip_weights": True}, {"TF32": False, "STRIP_PLAN": True, "REFIT_IDENTICAL": True}),
        ({"strip_weights": True, "refit": True},
         {"TF32": False, "STRIP_PLAN": True, "REFIT": True}),
    ],
)  # fmt: skip
def test_flags(trt: Any, options: dict[str, bool], flags: dict[str, bool]) -> None:
    found = builder_settings(trt, EngineOptions(**options)).flags
    assert found == {getattr(trt.BuilderFlag, name): wanted for name, wanted in flags.items()}


@pytest.mark.trt
def test_pools_and_attributes(trt: Any) -> None:
    options = EngineOptions(
        builder_optimization_level=5, workspace=1 << 32, tactic_shared_memory=1 << 15,
        hardware_compatibility="ampere+", profiling_verbosity="layer_names_only",
    )  # fmt: skip
    settings = builder_settings(trt, options)
    pools = trt.MemoryPoolType
    assert settings.pools == {pools.WORKSPACE: 1 << 32, pools.TACTIC_SHARED_MEMORY: 1 << 15}
    assert settings.attributes == {
        "builder_optimization_level": 5,
        "profiling_verbosity": trt.ProfilingVerbosity.LAYER_NAMES_ONLY,
        "hardware_compatibility_level": trt.HardwareCompatibilityLevel.AMPERE_PLUS,
    }
    # The attributes must exist, because a Python object accepts any name silently.
    for name in (*settings.attributes, "progress_monitor"):
        assert isinstance(getattr(trt.IBuilderConfig, name), property), name
    for name in ("set_flag", "clear_flag", "set_memory_pool_limit", "add_optimization_profile",
                 "create_timing_cache", "set_timing_cache", "get_timing_cache"):  # fmt: skip
        assert callable(getattr(trt.IBuilderConfig, name)), name
    assert builder_settings(trt, EngineOptions()).attributes["profiling_verbosity"] == (
        trt.ProfilingVerbosity.DETAILED
    )
    none = builder_settings(trt, EngineOptions(profiling_verbosity="none")).attributes
    assert none["profiling_verbosity"] == trt.ProfilingVerbosity.NONE


@pytest.mark.trt
def test_memory_follows_the_shapes(trt: Any) -> None:
    """`update_device_memory_size_for_shapes` needs the feature in versions that have it."""
    previews = builder_settings(trt, EngineOptions()).previews
    newer = trt_module.tensorrt_version() >= (10, 10)
    assert [feature.name for feature in previews] == (
        ["RUNTIME_ACTIVATION_RESIZE_10_10"] if newer else []
    )
    assert callable(trt.IBuilderConfig.set_preview_feature)


@pytest.mark.trt
def test_compatibility_that_a_version_lacks(trt: Any) -> None:
    options = EngineOptions(hardware_compatibility="sameComputeCapability")
    levels = trt.HardwareCompatibilityLevel
    if hasattr(levels, "SAME_COMPUTE_CAPABILITY"):
        found = builder_settings(trt, options).attributes["hardware_compatibility_level"]
        assert found == levels.SAME_COMPUTE_CAPABILITY
        return
    with pytest.raises(
        CovisError, match=f"--hardwareCompatibilityLevel: TensorRT {trt.__version__}"
    ):
        builder_settings(trt, options)


@pytest.mark.trt
def test_strong_typing(trt: Any) -> None:
    flags = network_flags(trt)
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert flags == (0 if trt_module.tensorrt_version() >= (11,) else typed)


@pytest.mark.trt
def test_methods_that_the_builder_calls(trt: Any) -> None:
    """The newer calls of each choice exist together or not at all."""
    parser = trt.OnnxParser
    newer = {hasattr(parser, name) for name in
             ("load_model_proto", "load_initializer", "parse_model_proto")}  # fmt: skip
    assert len(newer) == 1 and callable(parser.parse) and callable(parser.get_error)
    assert newer == {trt_module.tensorrt_version() >= (10, 13)}
    assert hasattr(trt.Builder, "build_serialized_network_to_stream") == hasattr(
        trt, "IStreamWriter"
    )
    for owner, names in {
        trt.Builder: ("create_network", "create_builder_config", "create_optimization_profile",
                      "build_serialized_network"),
        trt.INetworkDefinition: ("get_input", "num_inputs"),
        trt.ITensor: ("is_shape_tensor", "shape", "name"),
        trt.IOptimizationProfile: ("set_shape",),
        trt.ITimingCache: ("serialize", "combine"),
        trt.Runtime: ("deserialize_cuda_engine",),
        trt.ICudaEngine: ("create_engine_inspector", "device_memory_size_v2"),
        trt.EngineInspector: ("get_engine_information",),
        trt.LayerInformationFormat: ("JSON",),
        trt.IParserError if hasattr(trt, "IParserError") else trt.ParserError: ("desc",),
    }.items():  # fmt: skip
        for name in names:
            assert hasattr(owner, name), f"{owner.__name__}.{name}"


@pytest.mark.trt
def test_monitor(trt: Any) -> None:
    messages: list[tuple[object, ...]] = []

    class Phases(SilentPhases):
        def begin(self, name: str, depth: int, steps: int) -> None:
            messages.append(("begin", name, depth, steps))

        def step(self, name: str, done: int) -> None:
            messages.append(("step", name, done))

        def end(self, name: str) -> None:
            messages.append(("end", name))

    stop = threading.Event()
    found = monitor(Phases(), stop)
    assert isinstance(found, trt.IProgressMonitor)
    found.phase_start("Building Engine", None, 4)
    found.phase_start("Tactic Selection", "Building Engine", 9)
    assert found.step_complete("Tactic Selection", 0) is True
    found.phase_finish("Tactic Selection")
    stop.set()
    assert found.step_complete("Building Engine", 1) is False  # TensorRT then stops the build
    assert messages == [
        ("begin", "Building Engine", 0, 4), ("begin", "Tactic Selection", 1, 9),
        ("step", "Tactic Selection", 1), ("end", "Tactic Selection"),
        ("step", "Building Engine", 2),
    ]  # fmt: skip


@pytest.mark.trt
def test_logger(trt: Any) -> None:
    messages: list[tuple[str, str]] = []
    log = trt_module.logger(lambda severity, text: messages.append((severity, text)))
    assert isinstance(log, trt.ILogger) and trt_module.logger() is log
    log.forget()
    severities = trt.ILogger.Severity
    log.log(severities.VERBOSE, "quiet")
    log.log(severities.ERROR, "first\n")
    log.log(severities.INTERNAL_ERROR, "second")
    log.log(severities.WARNING, "careful\x1b[2J")
    assert [severity for severity, _ in messages] == ["verbose", "error", "error", "warning"]
    assert log.last_error() == "first" and log.warnings == ["careful\\x1b[2J"]
    log.forget()
    assert log.last_error() == ""
    trt_module.logger(lambda severity, text: None)


REGISTER = """
import sys
from pathlib import Path
import tensorrt
from covis.engines.errors import CovisError
from covis.engines.op import ATTRIBUTES
from covis.engines.tensorrt.module import load_plugin
library, static = Path(sys.argv[1]), sys.argv[2] == "static"
try:
    load_plugin(Path("README.md"), static=static)
except CovisError as error:
    print(error)
print(load_plugin(library, static=static) == load_plugin(library))
registry = tensorrt.get_plugin_registry()
print(sorted(c.name for c in registry.all_creators if c.name in ATTRIBUTES))
try:
    load_plugin(Path("LICENSE"))
except CovisError as error:
    print(error)
"""


@pytest.mark.trt
@pytest.mark.parametrize("way", ["static", "dynamic"])
def test_plugin_in_the_registry(trt: Any, way: str) -> None:
    library = plugin_library()
    done = subprocess.run(
        [sys.executable, "-c", REGISTER, str(library), way],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    refused, same, names, other = done.stdout.splitlines()
    assert refused.startswith(str(ROOT / "README.md")) and "cannot load it as a plugin" in refused
    assert same == "True" and names == "['BlockSelect', 'BlockSparseAttention', 'FarthestFirst']"
    assert "another plugin library is loaded already" in other


def failing_import(error: Exception) -> Any:
    def importing(name: str) -> Any:
        raise error

    return importing


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'tensorrt'", name="tensorrt"),
         "TensorRT is not installed; pip install 'covis[trt]' (TensorRT 10.6 to 11.x, from"),
        (ModuleNotFoundError("No module named 'tensorrt_libs'", name="tensorrt_libs"),
         "TensorRT is installed but cannot be loaded (No module named 'tensorrt_libs')"),
        (ImportError("libnvinfer.so.10: cannot open shared object file\nmore"),
         "cannot be loaded (libnvinfer.so.10: cannot open shared object file); check its"),
        (RuntimeError(), "TensorRT is installed but cannot be loaded (RuntimeError)"),
    ],
)  # fmt: skip
def test_import_that_fails(monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    monkeypatch.setattr(importlib, "import_module", failing_import(error))
    with pytest.raises(CovisError) as caught:
        trt_module.import_tensorrt()
    assert words in str(caught.value) and caught.value.code == ExitCode.ENVIRONMENT


@pytest.mark.parametrize(
    ("version", "good"),
    [("10.5.0", False), ("8.6.1", False), ("10.6.0", True), ("10.15.1.29", True), ("11.9", True),
     ("12.0.0", False), ("10.7.0.post1", True)],
)  # fmt: skip
def test_versions(monkeypatch: pytest.MonkeyPatch, version: str, good: bool) -> None:
    module = types.ModuleType("tensorrt")
    module.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    if good:
        assert trt_module.import_tensorrt() is module
        return
    with pytest.raises(CovisError, match=rf"TensorRT {version} is installed, 10\.6 to 11\.x is"):
        trt_module.import_tensorrt()


def test_missing_plugin(tmp_path: Path) -> None:
    assert find_library(PLUGIN_LIBRARY, tmp_path / "libcovis_trt.so") is None
    (tmp_path / "libcovis_trt.so").touch()
    assert (
        find_library(PLUGIN_LIBRARY, tmp_path / "libcovis_trt.so") == tmp_path / "libcovis_trt.so"
    )
    assert trt_module.missing_plugin(tmp_path).code == ExitCode.USER
    assert "was not built; see docs/how-to/tensorrt.md" in str(trt_module.missing_plugin(None))


def test_the_plugin_is_known_by_its_kernels_too(tmp_path: Path) -> None:
    """The plugin looks for its kernels beside itself, then in the build tree."""
    plugin = tmp_path / "tensorrt" / "libcovis_trt.so"
    plugin.parent.mkdir()
    plugin.write_bytes(b"plugin")
    alone = trt_module.plugin_digest(plugin)
    assert find_kernels_of(plugin) is None and alone == sha256_of(plugin)
    built = tmp_path / "cuda" / "libcovis_kernels.so"
    built.parent.mkdir()
    built.write_bytes(b"kernels")
    first = trt_module.plugin_digest(plugin)
    assert find_kernels_of(plugin) == built and first != alone
    beside = plugin.with_name("libcovis_kernels.so")
    beside.write_bytes(b"others")
    assert find_kernels_of(plugin) == beside
    assert trt_module.plugin_digest(plugin) not in (alone, first)
    plugin.write_bytes(b"plugin 2")
    beside.write_bytes(b"kernels")
    assert trt_module.plugin_digest(plugin) not in (alone, first)
