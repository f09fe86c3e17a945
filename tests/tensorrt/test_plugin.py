"""The plugin in TensorRT's own registry and networks, and its test program (plugin_test.cc)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covis.engines.op import ATTENTION_ATTRIBUTES, SELECT_ATTRIBUTES
from covis.engines.tensorrt.build.config import network_flags
from tests.tensorrt.build import PLUGIN, ROOT, build_programs, run_program
from tests.tensorrt.real import plugin_library, real_tensorrt, start, without_device

pytestmark = pytest.mark.trt

FRAMES = {"frame_tokens": 29, "special_first": 5, "trailing_tokens": 1}


def test_program() -> None:
    """Formats, workspace, serialising and launches, by the program: without TensorRT."""
    folder = build_programs()
    run_program([str(folder / "covis_trt_plugin_test"), str(folder / PLUGIN)])


@pytest.mark.slow
def test_program_under_sanitizers() -> None:
    folder = build_programs(sanitize=True)
    command = [str(folder / "covis_trt_plugin_test"), str(folder / PLUGIN)]
    run_program(command, UBSAN_OPTIONS="halt_on_error=1")


def test_links_nothing_of_tensorrt_or_cuda() -> None:
    """It must load before TensorRT is there, and where there is no GPU."""
    library = str(build_programs() / PLUGIN)
    needed = run_program(["readelf", "-d", library])
    libraries = [line for line in needed.splitlines() if "NEEDED" in line]
    allowed = ("libc.so", "libm.so", "libdl.so", "ld-linux")
    assert libraries and all(any(name in line for name in allowed) for line in libraries), libraries
    symbols = run_program(["nm", "-D", "--defined-only", library])
    assert {line.split()[-1] for line in symbols.splitlines()} == {"getCreators", "setLoggerFinder"}


REGISTRY = """
import ctypes, sys
if sys.argv[2:]:
    ctypes.CDLL(sys.argv[1])
import tensorrt as trt
registry, library = trt.get_plugin_registry(), sys.argv[1]
dlclose = ctypes.CDLL(None).dlclose
dlclose.argtypes = [ctypes.c_void_p]
def ours():
    names = ("BlockSelect", "BlockSparseAttention", "FarthestFirst")
    return sorted(c.name for c in registry.all_creators if c.name in names)
def show(when):
    print(when, *ours())
"""


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("""h = ctypes.CDLL(library)._handle; show("opened"); dlclose(h); show("closed")""",
         ["opened BlockSelect BlockSparseAttention FarthestFirst", "closed"]),
        ("""
for _ in range(3):
    h = registry.load_library(library); show("loaded"); registry.deregister_library(h); show("left")
""", 3 * ["loaded BlockSelect BlockSparseAttention FarthestFirst", "left"]),
        ("""
h = ctypes.CDLL(library)._handle; r = registry.load_library(library); show("both")
registry.deregister_library(r); show("left"); dlclose(h); show("closed")
""", ["both BlockSelect BlockSparseAttention FarthestFirst", "left", "closed"]),
    ],
    ids=["dlopen", "load_library", "both"],
)  # fmt: skip
def test_registration(steps: str, said: list[str]) -> None:
    """Every way in which programs load plugins, and back; at the end the process ends well."""
    library = str(plugin_library())
    done = subprocess.run(
        [sys.executable, "-c", REGISTRY + steps, library],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.splitlines() == said


def test_loaded_before_tensorrt() -> None:
    """It finds the TensorRT that came after it: creators and messages reach that."""
    steps = """
from covis.engines.tensorrt.module import logger
logger(lambda severity, text: print(text) if severity == "error" else None)
builder = trt.Builder(logger())
show("before"); registry.load_library(library); show("loaded")
field = trt.PluginField("k_block", __import__("numpy").int32([0]), trt.PluginFieldType.INT32)
creator = registry.get_creator("BlockSelect", "1", "")
fields = trt.PluginFieldCollection([field])
print(creator.create_plugin("test", fields, trt.TensorRTPhase.BUILD))
"""
    library = str(plugin_library())
    done = subprocess.run(
        [sys.executable, "-c", REGISTRY + steps, library, "first"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
        env={**os.environ, **without_device()},
    )  # fmt: skip
    before, loaded, refused, made = done.stdout.splitlines()
    assert before == "before" and loaded == "loaded BlockSelect BlockSparseAttention FarthestFirst"
    assert refused.startswith("covis BlockSelect: k_block is 0") and made == "None"


@pytest.mark.parametrize(
    ("way", "before"),
    [
        ("ctypes.CDLL(library)", []),
        ("registry.load_library(library)", []),
        ("registry.load_library(library)", ["first"]),
    ],
)
def test_a_plugin_of_another_major_version_is_refused(way: str, before: list[str]) -> None:
    """Registry and logger are called differently in 11: one call would end the process."""
    mine = int(real_tensorrt().__version__.partition(".")[0])
    library = str(plugin_library(other=True))
    done = subprocess.run(
        [sys.executable, "-c", REGISTRY + f"{way}; show('then')", library, *before],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    message = f"built for TensorRT {21 - mine}, TensorRT {mine} is loaded; build it anew"
    assert done.stderr.count(message) == 1
    assert done.stdout.splitlines() == ["then"]


@pytest.fixture
def trt() -> Iterator[Any]:
    module, _, log = start()
    yield module
    log.forget()


def created(trt: Any, op: str, phase: str = "BUILD", **fields: Any) -> Any:
    """Create the plugin from fields, or None; integers are int32, floats float32."""
    kinds = {np.int32: "INT32", np.int64: "INT64", np.float32: "FLOAT32", np.float64: "FLOAT64"}
    made = []
    for name, value in fields.items():
        if isinstance(value, str):
            array, kind = np.frombuffer(value.encode(), np.int8), "CHAR"
        else:
            array = np.atleast_1d(np.asarray(value, np.int32 if isinstance(value, int) else None))
            array = array.astype(np.float32) if type(value) is float else array
            kind = kinds[array.dtype.type]
        made.append(trt.PluginField(name, array, getattr(trt.PluginFieldType, kind)))
    creator = trt.get_plugin_registry().get_creator(op, "1", "")
    return creator.create_plugin(
        "test", trt.PluginFieldCollection(made), getattr(trt.TensorRTPhase, phase)
    )


def test_field_names(trt: Any) -> None:
    names = {
        op: [field.name for field in trt.get_plugin_registry().get_creator(op, "1", "").field_names]
        for op in ("BlockSparseAttention", "BlockSelect", "FarthestFirst")
    }
    assert names == {
        "BlockSparseAttention": [*ATTENTION_ATTRIBUTES, "precision"],
        "BlockSelect": [*SELECT_ATTRIBUTES],
        "FarthestFirst": [],
    }


@pytest.mark.parametrize(
    ("op", "fields"),
    [
        ("BlockSparseAttention", {}),
        ("BlockSparseAttention", {**FRAMES, "q_block": np.int64(24)}),
        ("BlockSparseAttention", {**FRAMES, "scale": 0.25, "precision": "fp8"}),
        ("BlockSparseAttention", {**FRAMES, "precision": "full"}),
        ("BlockSelect", {**FRAMES, "pool": "max\0"}),
        ("FarthestFirst", {}),
    ],
)
def test_good_fields(trt: Any, op: str, fields: dict[str, Any]) -> None:
    _, _, log = start()
    assert created(trt, op, **fields) is not None and not log.errors


@pytest.mark.parametrize(
    ("op", "fields", "words"),
    [
        ("BlockSparseAttention", {"frame_tokens": 0}, "frame_tokens is 0, must be 1"),
        ("BlockSelect", {"k_block": -4}, "k_block is -4, must be 1 to 2147483647"),
        ("BlockSelect", {"q_block": np.int64(1 << 31)}, "q_block is 2147483648, must be 1"),
        ("BlockSelect", {"q_block": 1.0}, "q_block is 1 of kFLOAT32, must be one"),
        ("BlockSelect", {"q_block": np.int32([1, 1])}, "q_block is 2 of kINT32, must be one"),
        ("BlockSparseAttention", {"scale": -1.0}, "scale is -1.0"),
        ("BlockSparseAttention", {"scale": float("nan")}, "must be finite"),
        ("BlockSparseAttention", {"scale": np.float64(1)}, "scale is 1 of kFLOAT64, must be one"),
        ("BlockSparseAttention", {"precision": "int8"}, 'precision is "int8", must be "full" or'),
        ("BlockSelect", {"pool": "m\n"}, 'pool is "m?", must be "mean" or'),
        ("BlockSelect", {"pool": 1}, "pool is kINT32, must be kCHAR"),
        ("BlockSelect", {"scale": 1.0}, 'field "scale" is not known'),
        ("FarthestFirst", {"frame_tokens": 6}, 'field "frame_tokens" is not known'),
        ("BlockSelect", {"frame_tokens": 6, "special_first": 4, "special_last": 2},
         "special_first 4 and special_last 2 leave no patch of frame_tokens 6"),
    ],
)  # fmt: skip
def test_bad_fields(trt: Any, op: str, fields: dict[str, Any], words: str) -> None:
    _, _, log = start()
    assert created(trt, op, **fields) is None
    assert words in log.errors[0] and log.errors[0].startswith(f"covis {op}: "), log.errors


def test_a_plan_of_other_fields(trt: Any) -> None:
    """Deserialising requires every field that was serialised; building fills in defaults."""
    _, _, log = start()
    assert created(trt, "BlockSelect", "RUNTIME", **FRAMES) is None
    assert "is missing; build" in log.errors[0], log.errors


Q = (2, 3, 88, 64)  # 3 frames of 29 and a trailing token
Shapes = list[tuple[int, ...]]
SHAPES: dict[str, Shapes] = {
    "BlockSparseAttention": [Q, Q, Q, (1, 1, 3, 3)],
    "BlockSelect": [Q, Q, (1, 1, 3, 3), (), ()],
    "FarthestFirst": [(4, 4), (4,), ()],
}
TYPES = {
    "BlockSparseAttention": ["HALF", "HALF", "HALF", "INT8"],
    "BlockSelect": ["HALF", "HALF", "INT8", "FLOAT", "FLOAT"],
    "FarthestFirst": ["FLOAT", "INT64", "INT64"],
}
FIELDS: dict[str, dict[str, int]] = {
    "BlockSparseAttention": {**FRAMES, "q_block": 24, "k_block": 24},
    "BlockSelect": FRAMES,
    "FarthestFirst": {},
}


@pytest.mark.parametrize(
    ("op", "shapes", "words"),
    [
        ("BlockSparseAttention", [Q, Q, (2, 3, 88, 32), (1, 1, 3, 3)], "V is (2, 3, 88, 32), Q is"),
        ("BlockSparseAttention", [(3, 88, 64), Q, Q, (1, 1, 3, 3)], "Q is (3, 88, 64), must be (B"),
        ("BlockSparseAttention", [(2, 3, 89, 64)] * 3 + [(1, 1, 3, 3)],
         "89 tokens are not frames of frame_tokens 29 and"),
        ("BlockSparseAttention", [Q, Q, Q, (1, 1, 4, 3)], "level is (1, 1, 4, 3); each size must"),
        ("BlockSparseAttention", [Q, Q, Q, (1, 2, 3, 3)], "that of (2, 3, 3, 3)"),
        ("BlockSparseAttention", [Q, Q, Q, (3, 3)], "level is (3, 3), must be (b, h, Rq, Rk)"),
        ("BlockSelect", [Q, Q, (1, 1, 2, 2), (), ()], "pair is (1, 1, 2, 2), must be"),
        ("BlockSelect", [Q, Q, (2, 1, 3, 3), (), ()], "pair is (2, 1, 3, 3), must be"),
        ("BlockSelect", [Q, Q, (1, 1, 3, 3), (1,), ()], "keep_ratio is (1), must be a"),
        ("BlockSelect", [(2, 3, 1, 64), (2, 3, 1, 64), (1, 1, 1, 1), (), ()], "hold no frame"),
        ("FarthestFirst", [(4, 5), (4,), ()], "similarity is (4, 5), must be (M, M)"),
        ("FarthestFirst", [(4, 4, 1), (4,), ()], "similarity is (4, 4, 1), must be (M, M)"),
        ("FarthestFirst", [(4, 4), (5,), ()], "given is (5), must be (M), similarity is (4, 4)"),
        ("FarthestFirst", [(4, 4), (4,), (1,)], "count is (1), must be a scalar"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit(trt: Any, op: str, shapes: Shapes, words: str) -> None:
    assert any(words in line for line in connected(trt, op, shapes)[1])


@pytest.mark.parametrize(
    ("op", "types", "words"),
    [
        ("BlockSparseAttention", ["HALF", "HALF", "BF16", "INT8"], "V is bfloat16, must be"),
        ("BlockSparseAttention", ["HALF", "HALF", "HALF", "INT32"], "level is int32, must be int8"),
        ("BlockSelect", ["HALF", "HALF", "INT8", "HALF", "FLOAT"], "keep_ratio is float16, must"),
        ("BlockSelect", ["HALF", "HALF", "INT8", "FLOAT"], "4 inputs and 1 outputs are connected"),
        ("FarthestFirst", ["HALF", "INT64", "INT64"], "similarity is float16, must be float32"),
        ("FarthestFirst", ["FLOAT", "INT32", "INT64"], "given is int32, must be int64"),
    ],
)  # fmt: skip
def test_types_that_do_not_fit(trt: Any, op: str, types: list[str], words: str) -> None:
    shapes = SHAPES[op][: len(types)]
    assert any(words in line for line in connected(trt, op, shapes, types)[1])


@pytest.mark.parametrize("kind", ["HALF", "BF16", "FLOAT"])
def test_outputs(trt: Any, kind: str) -> None:
    """Attention returns the type and shape of Q; the selector returns int8, a row a query block."""
    op = "BlockSparseAttention"
    shape, errors = connected(trt, op, SHAPES[op], [kind] * 3 + ["INT8"])
    assert shape == (kind, Q) and not errors
    op = "BlockSelect"
    shape, errors = connected(trt, op, SHAPES[op], [kind, kind, "INT8", "FLOAT", "FLOAT"])
    assert shape == ("INT8", (2, 3, 1, 2)) and not errors  # 72 patches: one of 128, two of 64


def test_ranks(trt: Any) -> None:
    """The traversal returns a rank for each view."""
    op = "FarthestFirst"
    assert connected(trt, op, SHAPES[op]) == (("INT32", (4,)), [])


def connected(
    trt: Any, op: str, shapes: Shapes, types: list[str] | None = None
) -> tuple[tuple[str, tuple[int, ...]] | None, list[str]]:
    """Return type and shape of a plugin's output in a network of fixed shapes, and the errors."""
    _, builder, log = start()
    types = types or TYPES[op]
    plugin = created(trt, op, **FIELDS[op])
    network = builder.create_network(network_flags(trt))
    inputs = [
        network.add_input(f"in{place}", getattr(trt.DataType, kind), shape)
        for place, (kind, shape) in enumerate(zip(types, shapes, strict=True))
    ]
    layer = network.add_plugin_v3(inputs, [], plugin)
    if layer is None:
        return None, list(log.errors)
    output = layer.get_output(0)
    try:
        shape = tuple(output.shape)
    except (ValueError, RuntimeError):  # the plugin refused to tell it
        return None, list(log.errors)
    return (output.dtype.name, shape), list(log.errors)


def test_errors_reach_the_registry_s_recorder(trt: Any) -> None:
    class Recorder(trt.IErrorRecorder):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)
            self.lines: list[str] = []

        def report_error(self, code: Any, text: str) -> bool:
            self.lines.append(text)
            return True

        def clear(self) -> None:
            self.lines.clear()

        def get_error_code(self, index: int) -> Any:
            return trt.ErrorCodeTRT.INVALID_ARGUMENT

        def get_error_desc(self, index: int) -> str:
            return self.lines[index]

        def has_overflowed(self) -> bool:
            return False

        def num_errors(self) -> int:
            return len(self.lines)

    registry, recorder = trt.get_plugin_registry(), Recorder()
    registry.error_recorder = recorder
    try:
        assert created(trt, "BlockSelect", k_block=0) is None
        assert any("k_block is 0, must be 1" in line for line in recorder.lines)
    finally:
        registry.error_recorder = None


def test_loads_without_tensorrt() -> None:
    """Loaded alone, in a process that has no TensorRT: nothing to register with, no crash."""
    library = Path(build_programs() / PLUGIN)
    code = f"import ctypes; ctypes.CDLL({str(library)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
