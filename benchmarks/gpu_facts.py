"""Facts of the machine for every GPU record: card, driver, clocks, versions, commit. No torch."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path
from typing import Any

from covis.evaluation.bench.record import machine

ROOT = Path(__file__).resolve().parents[1]
CARD = ("name", "driver_version", "memory.total", "clocks.max.sm", "clocks.max.mem", "power.limit")
CLOCKS = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")
PACKAGES = ("torch", "triton", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt")


def nvidia_smi(fields: tuple[str, ...]) -> dict[str, str | None]:
    """Return fields of the first GPU as nvidia-smi prints them; None without nvidia-smi."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return dict.fromkeys(fields)
    lines = done.stdout.strip().splitlines() if done.returncode == 0 else []
    words = [word.strip() for word in lines[0].split(", ")] if lines else []
    return dict(zip(fields, words, strict=True)) if len(words) == len(fields) else (
        dict.fromkeys(fields)
    )  # fmt: skip


def clocks() -> dict[str, str | None]:
    """Return SM and memory clock, power and temperature now."""
    return nvidia_smi(CLOCKS)


def gpu_facts() -> dict[str, Any]:
    """Return card, driver, clocks, package versions, commit and time; None for what is missing.

    A copy without its history may contain its commit in a file `COMMIT`.
    """
    card = nvidia_smi(CARD)
    facts = machine()
    recorded = ROOT / "COMMIT"
    if facts["commit"] == "unknown" and recorded.is_file():
        facts["commit"] = recorded.read_text().strip()
    return {
        "gpu": card["name"],
        "driver": card["driver_version"],
        "card": card,
        "clocks": clocks(),
        "versions": {name: _version(name) for name in PACKAGES},
        **facts,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
