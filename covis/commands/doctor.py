"""`covis doctor`: what this machine can run, in words."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True)
class DoctorCommand:
    """Say what this machine can run, and what the rest would need."""


@dataclass(frozen=True)
class Finding:
    """One line of the report; `ok` is None where something optional is absent."""

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
        console.print(finding.text, markup=False)
    if any(finding.ok is False for finding in findings):
        raise environment_error("this machine cannot run bundles", hint="mend what is marked NO")


def examine() -> Iterator[Finding]:
    """Look at interpreter, memory, ONNX Runtime, our libraries, torch, TensorRT and the GPU."""
    import covis

    yield Finding(
        True,
        f"covis {covis.__version__} on Python {platform.python_version()}, {platform.machine()}",
    )
    yield Finding(True, f"{_cores()} cores, {_memory_gib():.0f} GiB of memory")
    yield from _onnxruntime()
    yield _kernel()
    yield _package("torch", "covis export", "pip install 'covis[export]'")
    yield _package("tensorrt", "TensorRT engines", "pip install 'covis[trt]'")
    yield _gpu()


def _onnxruntime() -> Iterator[Finding]:
    from covis.engines.errors import printable

    try:
        import onnxruntime as ort
    except Exception as error:
        yield Finding(
            False,
            f"ONNX Runtime cannot be imported ({printable(str(error))}): pip install onnxruntime",
        )
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
    yield Finding(True, f"ONNX Runtime {ort.__version__} with {providers}: bundles run")


def _kernel() -> Finding:
    from covis.engines.errors import printable
    from covis.runtime.native import find_library, instruction_set

    library = find_library()
    if library is None:
        return Finding(
            None,
            "no CPU kernel of the ops was built: function bodies serve, slower, in more memory",
        )
    try:
        variant = instruction_set(library)
    except (OSError, AttributeError) as error:
        return Finding(
            False, f"the CPU kernel cannot be loaded ({printable(str(error))}): build covis anew"
        )
    return Finding(True, f"CPU kernel of the ops ({variant}): sparse attention skips blocks")


def _package(name: str, what: str, cure: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding(None, f"{name} is not installed, so no {what}: {cure}")
    return Finding(True, f"{name} {_version(name) or 'of unknown version'}: {what}")


def _gpu() -> Finding:
    from pathlib import Path

    driver = Path("/proc/driver/nvidia/version")
    if driver.is_file():
        return Finding(True, f"NVIDIA driver: {driver.read_text().splitlines()[0].strip()}")
    if shutil.which("nvidia-smi"):
        return Finding(
            None, "nvidia-smi is here but no NVIDIA driver is loaded: bundles run on the CPU"
        )
    return Finding(None, "no NVIDIA driver: bundles run on the CPU")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gib() -> float:
    if sys.platform == "win32":
        return 0.0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
