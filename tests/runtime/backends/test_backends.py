"""Choice of a backend, and the errors where this machine cannot run one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from covis.cli import run_command
from covis.engines.bundle.bundle import open_bundle
from covis.engines.bundle.manifest import Stage, Tensor
from covis.engines.bundle.verified import verified_onnx
from covis.engines.dtypes import numpy_dtype
from covis.engines.errors import CovisError
from covis.engines.options import BackendOptions
from covis.engines.system.ort_settings import import_onnxruntime
from covis.runtime.backends.backend import OnnxRuntimeBackend, open_backend
from covis.runtime.backends.ort_session import (
    Session,
    SessionOptions,
    check_provider,
    providers,
    tensorrt_options,
)
from covis.runtime.pipeline import load

NO_GPU = not Path("/proc/driver/nvidia/version").exists()
needs_no_gpu = pytest.mark.skipif(not NO_GPU, reason="this machine has an NVIDIA driver")


def test_default_is_onnxruntime_on_the_cpu(tiny_bundle: Path, photos: Path) -> None:
    options = BackendOptions()
    assert not options.on_gpu
    backend = open_backend(open_bundle(tiny_bundle), options)
    assert isinstance(backend, OnnxRuntimeBackend)
    assert backend.about()["device"] == "cpu"
    provenance = load(tiny_bundle)(photos).provenance
    assert provenance["backend"] == "onnxruntime" and "onnxruntime" in provenance


@pytest.mark.parametrize(
    ("options", "on_gpu"),
    [
        (BackendOptions(backend="cuda"), True),
        (BackendOptions(backend="tensorrt"), True),
        (BackendOptions(backend="ort-tensorrt"), True),
        (BackendOptions(device=1), False),
    ],
)
def test_what_runs_on_a_gpu(options: BackendOptions, on_gpu: bool) -> None:
    assert options.on_gpu is on_gpu


@needs_no_gpu
@pytest.mark.parametrize(
    "options",
    [["--backend", "tensorrt"], ["--backend", "ort-tensorrt"], ["--backend", "cuda"]],
)
def test_one_line_where_the_machine_cannot(
    tiny_bundle: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    options: list[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    assert run_command(["run", str(tiny_bundle), str(photos), "--out", str(out), *options]) == 3
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("covis: ") and "; " in line
    assert any(word in line for word in ("TensorRT", "provider", "driver"))
    assert not out.exists()


def test_missing_provider_names_the_cure() -> None:
    if "CUDAExecutionProvider" in import_onnxruntime().get_available_providers():
        pytest.skip("this is onnxruntime-gpu")
    with pytest.raises(CovisError, match="pip uninstall onnxruntime, then pip install"):
        check_provider("cuda")
    check_provider("cpu")


def test_float32_is_float32_on_a_gpu() -> None:
    """ONNX Runtime's CUDA provider rounds products to TF32 by default."""
    cuda, cpu = providers(SessionOptions(provider="cuda", device=1))
    assert cuda[0] == "CUDAExecutionProvider" and cpu == "CPUExecutionProvider"
    assert cuda[1]["use_tf32"] == 0 and cuda[1]["device_id"] == 1


def test_missing_and_broken_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import ModuleType

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CovisError, match=r"covis\[cpu\]") as caught:
        import_onnxruntime()
    assert caught.value.code == 3
    # What pip leaves when one of the two distributions in the same folder is removed.
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    with pytest.raises(CovisError, match="overwritten each other"):
        import_onnxruntime()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8", "bool"])
def test_sessions_bind_every_type(tmp_path: Path, dtype: str) -> None:
    """NumPy has no bfloat16 of its own; ONNX Runtime takes ONNX's number for it."""
    kind = {"bfloat16": TensorProto.BFLOAT16, "float16": TensorProto.FLOAT16,
            "int8": TensorProto.INT8, "bool": TensorProto.BOOL}[dtype]  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", kind, ["N", 3])],
        [helper.make_tensor_value_info("y", kind, ["N", 3])],
    )
    opsets = [helper.make_opsetid("", 20)]
    path = tmp_path / "identity.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path))
    ports = [Tensor(name=name, dtype=dtype, shape=("N", 3)) for name in "xy"]  # type: ignore[arg-type]
    stage = Stage(
        name="identity", scope="frames", graph="identity.onnx",
        inputs=(ports[0],), outputs=(ports[1],),
    )  # fmt: skip
    session = Session(verified_onnx(path), stage, SessionOptions(threads=1))
    x = np.array([[0, 1, 2], [3, 4, 5]]).astype(numpy_dtype(dtype))
    y = np.empty_like(x)
    session.run({"x": x}, {"y": y})
    np.testing.assert_array_equal(x.view(np.uint8), y.view(np.uint8))


def test_the_providers_engines_belong_to_their_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider looks at the graph and TensorRT alone when it takes an engine from its cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plugin = tmp_path / "libcovis_trt.so"
    folders = []
    for content in (b"one", b"two", b"one"):
        plugin.write_bytes(content)
        chosen = tensorrt_options(SessionOptions(provider="tensorrt", plugin=plugin, cache="b"))
        assert chosen["trt_extra_plugin_lib_paths"] == str(plugin)
        folders.append(Path(chosen["trt_engine_cache_path"]))
        assert folders[-1].is_dir() and folders[-1].parent.name == "b"
    assert folders[0] == folders[2] != folders[1]
