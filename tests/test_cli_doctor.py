"""`covis doctor` on machines with and without driver, GPU, TensorRT and plugin."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

from covis.commands.doctor import Finding, examine
from covis.engines.errors import environment_error
from covis.engines.system.floors import floor
from covis.engines.system.gpu import Gpu
from tests.places import ROOT

H200 = Gpu("NVIDIA H200", (9, 0), 150 << 30, "580.95.05", "13.0")


def findings(monkeypatch: pytest.MonkeyPatch, gpu: Gpu | str) -> list[Finding]:
    """What is said where the driver tells of `gpu`, or fails with those words."""

    def find(index: int = 0) -> Gpu:
        if isinstance(gpu, str):
            raise environment_error(gpu)
        return gpu

    monkeypatch.setattr("covis.engines.system.gpu.find_gpu", find)
    return list(examine())


def about(found: list[Finding], words: str) -> Finding:
    return next(finding for finding in found if words in finding.text)


def test_nothing_is_left_in_the_home_folder(tmp_path: Path) -> None:
    """ONNX Runtime would keep an identifier for its telemetry there, from the import on."""
    home = tmp_path / "home"
    home.mkdir()
    unset = {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"}
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    subprocess.run(
        [sys.executable, "-m", "covis", "doctor"], check=True, capture_output=True, cwd=ROOT,
        env={**kept, "HOME": str(home), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert not list(home.iterdir())


def test_good_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = about(findings(monkeypatch, H200), "H200")
    assert found.ok is True
    assert found.text == (
        "NVIDIA H200, compute capability 9.0, 150 GiB, driver 580.95.05 (CUDA 13.0)"
    )


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        (Gpu("Tesla T4", (7, 5), 1 << 34, "580.1", "13.0"), "too old, engines need compute"),
        (Gpu("A100", (8, 0), 1 << 36, "470.1", "11.4"), "the driver is too old, engines need one"),
    ],
)
def test_too_old(monkeypatch: pytest.MonkeyPatch, gpu: Gpu, words: str) -> None:
    found = about(findings(monkeypatch, gpu), gpu.name)
    assert found.ok is None and words in found.text  # the CPU goes on: nothing is marked NO


def test_nothing_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr("covis.engines.system.native.find_library", lambda name: None)
    found = findings(monkeypatch, "no NVIDIA driver answers")
    assert not any(finding.ok is False for finding in found)
    assert about(found, "no TensorRT engines: TensorRT is").ok is None
    assert "pip install 'covis[trt]'" in about(found, "no TensorRT engines").text
    assert "see docs/how-to/tensorrt.md" in about(found, "no TensorRT plugin").text
    if not Path("/proc/driver/nvidia/version").is_file():
        assert about(found, "no NVIDIA driver is loaded").ok is None


def test_tensorrt_and_plugin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plugin = tmp_path / "libcovis_trt.so"
    plugin.write_bytes(b"x")
    monkeypatch.setattr("covis.engines.system.native.find_library", lambda name: plugin)
    for version, good in (("10.15.1.29", True), ("10.5.0", None), ("12.0.0", None)):
        module = types.ModuleType("tensorrt")
        module.__version__ = version  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        found = findings(monkeypatch, H200)
        assert about(found, f"TensorRT {version}").ok is good
        assert about(found, "TensorRT plugin").ok is True


@pytest.fixture
def metadata_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's own metadata, with floors of its own."""
    wanted = ["numpy>=2.0", 'onnxruntime>=7.10; extra == "cpu"', 'torch>=8.2; extra == "export"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: wanted)


@pytest.mark.parametrize(
    ("version", "good"), [("7.9.1", False), ("7.10.0", True), ("7.10.0.dev2", True), ("8", True)]
)
@pytest.mark.usefixtures("metadata_of")
def test_the_floor_of_onnxruntime(
    monkeypatch: pytest.MonkeyPatch, version: str, good: bool
) -> None:
    monkeypatch.setattr("onnxruntime.__version__", version)
    found = about(findings(monkeypatch, H200), f"ONNX Runtime {version}")
    assert found.ok is good
    assert good or "too old, bundles need 7.10: pip install -U onnxruntime" in found.text


@pytest.mark.parametrize(("version", "good"), [("8.1.9+cpu", None), ("8.2.0+cpu", True)])
@pytest.mark.usefixtures("metadata_of")
def test_the_floor_of_torch(
    monkeypatch: pytest.MonkeyPatch, version: str, good: bool | None
) -> None:
    monkeypatch.setattr("covis.commands.doctor.importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("covis.commands.doctor._version", {"torch": version}.get)
    found = about(findings(monkeypatch, H200), f"torch {version}")
    assert found.ok is good
    assert good or "is too old, covis export needs 8.2: pip install -U torch" in found.text


def test_floors_are_those_of_the_metadata() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = extras["optional-dependencies"]
    assert f"onnxruntime>={floor('onnxruntime')}" in extras["cpu"]
    assert f"onnxruntime-gpu>={floor('onnxruntime')}" in extras["gpu"]
    assert f"torch>={floor('torch')}" in extras["export"]
    assert floor("no-such-package") is None


def test_both_onnxruntimes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("covis.commands.doctor._version", lambda name: "1.31")
    found = about(findings(monkeypatch, H200), "onnxruntime and onnxruntime-gpu are both")
    assert found.ok is False and "pip uninstall both" in found.text
