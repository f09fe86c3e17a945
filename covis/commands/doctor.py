"""`covis doctor`: a report of what this machine can run."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

OLDEST_GPU: Final = (8, 0)  # compute capability that the plugin's kernels require
OLDEST_CUDA: Final = (12, 0)  # version that TensorRT 10.6 requires


@dataclass(frozen=True)
class DoctorCommand:
    """Report what this machine can run, and what is missing for the rest."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        ok: True where something works, False where it must be repaired, None where something
            optional is absent.
        text: Description of the finding, with the cure where there is one.
    """

    ok: bool | None
    text: str


def doctor(command: DoctorCommand) -> None:
    """Print the findings; exit code 3 if the main job, running a bundle, cannot be done."""
    from rich.console import Console

    from covis.engines.errors import environment_error

    console = Console(highlight=False)
    marks = {True: "[green]yes[/]", None: "[dim] - [/]", False: "[red]NO [/]"}
    findings = list(examine())
    for finding in findings:
        console.print(f"{marks[finding.ok]}  ", end="")
        console.print(finding.text, markup=False, soft_wrap=True)
    if any(finding.ok is False for finding in findings):
        raise environment_error("this machine cannot run bundles", hint="repair what is marked NO")


def examine() -> Iterator[Finding]:
    """Examine interpreter, memory, ONNX Runtime, covis's libraries, torch, TensorRT and the GPU."""
    from covis.engines.version import __version__

    yield Finding(
        True,
        f"covis {__version__} on Python {platform.python_version()}, {platform.machine()}",
    )
    yield Finding(True, f"{_cores()} cores, {memory_gib():.0f} GiB of memory")
    yield from _onnxruntime()
    yield _kernel()
    yield _package("torch", "covis export", "pip install 'covis[cpu,export]'")
    yield from _gpus()
    yield _tensorrt()
    yield _plugin()


def _onnxruntime() -> Iterator[Finding]:
    from covis.engines.errors import CovisError
    from covis.engines.system.floors import too_old
    from covis.engines.system.ort_settings import import_onnxruntime

    try:
        ort = import_onnxruntime()
    except CovisError as error:
        yield Finding(False, str(error))
        return
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    if len(installed) > 1:
        yield Finding(
            False,
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            "pip uninstall both, then install one",
        )
    providers = ", ".join(
        name.removesuffix("ExecutionProvider") for name in ort.get_available_providers()
    )
    facts = f"ONNX Runtime {ort.__version__} with {providers}"
    lowest = too_old("onnxruntime", ort.__version__)
    if lowest is not None:
        cure = " or ".join(f"pip install -U {name}" for name in installed or ["onnxruntime"])
        yield Finding(False, f"{facts}: too old, bundles need {lowest}: {cure}")
    else:
        yield Finding(True, f"{facts}: bundles run")


def _kernel() -> Finding:
    from covis.engines.errors import CovisError, printable
    from covis.engines.system.native import ORT_LIBRARY, find_library, instruction_set

    try:
        library = find_library(ORT_LIBRARY)
    except CovisError as error:
        return Finding(False, f"CPU kernel of the ops: {error}")
    if library is None:
        return Finding(
            None,
            "no CPU kernel of the ops was built: they run as ordinary ONNX operators, slower and "
            "in more memory",
        )
    try:
        variant = instruction_set(library)
    except (OSError, AttributeError) as error:
        return Finding(
            False, f"the CPU kernel cannot be loaded ({printable(str(error))}): build covis anew"
        )
    return Finding(True, f"CPU kernel of the ops ({variant}): sparse attention skips blocks")


def _package(name: str, what: str, cure: str) -> Finding:
    from covis.engines.system.floors import too_old

    if importlib.util.find_spec(name) is None:
        return Finding(None, f"{name} is not installed, so no {what}: {cure}")
    version = _version(name)
    lowest = too_old(name, version) if version else None
    if lowest is not None:
        return Finding(
            None, f"{name} {version} is too old, {what} needs {lowest}: pip install -U {name}"
        )
    return Finding(True, f"{name} {version or 'of unknown version'}: {what}")


def _gpus() -> Iterator[Finding]:
    """Examine the driver and the first GPU; without them bundles run on the CPU."""
    from covis.engines.errors import CovisError, printable
    from covis.engines.system.floors import numbers
    from covis.engines.system.gpu import find_gpu

    driver = Path("/proc/driver/nvidia/version")
    loaded = driver.is_file()
    if not loaded:
        more = ", though nvidia-smi is here" if shutil.which("nvidia-smi") else ""
        yield Finding(None, f"no NVIDIA driver is loaded{more}: bundles run on the CPU")
    try:
        gpu = find_gpu()
    except CovisError as error:
        if loaded:
            words = printable(driver.read_text().splitlines()[0].strip())
            yield Finding(None, f"NVIDIA driver: {words}; no GPU answers: {error}")
        return
    major, minor = gpu.compute_capability
    facts = (
        f"{gpu.name}, compute capability {major}.{minor}, {gpu.memory / 2**30:.0f} GiB, "
        f"driver {gpu.driver} (CUDA {gpu.cuda})"
    )
    if gpu.compute_capability < OLDEST_GPU:
        yield Finding(None, f"{facts}: too old, engines need compute capability 8.0")
    elif numbers(gpu.cuda) < OLDEST_CUDA:
        yield Finding(None, f"{facts}: the driver is too old, engines need one for CUDA 12.0")
    else:
        yield Finding(True, facts)


def _tensorrt() -> Finding:
    from covis.engines.errors import CovisError
    from covis.engines.tensorrt.module import import_tensorrt

    try:
        module = import_tensorrt()
    except CovisError as error:
        return Finding(None, f"no TensorRT engines: {error}")
    return Finding(True, f"TensorRT {module.__version__}: `covis build` builds engines")


def _plugin() -> Finding:
    from covis.engines.bundle.bundle import sha256_of
    from covis.engines.errors import CovisError
    from covis.engines.system.native import PLUGIN_LIBRARY, find_library

    try:
        library = find_library(PLUGIN_LIBRARY)
    except CovisError as error:
        return Finding(None, f"no TensorRT plugin: {error}")
    if library is None:
        about = "no TensorRT plugin (libcovis_trt.so) was built: see docs/how-to/tensorrt.md"
        return Finding(None, about)
    return Finding(True, f"TensorRT plugin {library}, sha256 {sha256_of(library)[:12]}...")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gib() -> float:
    if sys.platform == "win32":
        return 0.0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
