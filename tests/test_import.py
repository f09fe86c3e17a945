"""`import covis` and `covis --help` are quick, because they load next to nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.places import ROOT

HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "pydantic", "PIL", "trimesh", "tyro", "rich",
         "onnxscript", "onnx_ir", "safetensors", "natsort")  # fmt: skip


def loaded(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after `code`."""
    code += "\nimport sys\nprint('|', *(n for n in sys.modules if '.' not in n))"
    out = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout  # fmt: skip
    return set(HEAVY) & set(out.rsplit("|", 1)[1].split())


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import covis", set()),
        ("import covis; dir(covis); covis.CovisError", set()),
        ("from covis.cli import run_command; run_command(['--help'])", set()),
        ("from covis.cli import run_command; run_command(['--version'])", set()),
        ("from covis.cli import run_command; run_command(['bogus'])", set()),
        *(
            (f"from covis.cli import run_command; run_command(['{name}', '--help'])",
             {"tyro", "rich"})
            for name in ("export", "run", "eval", "inspect", "doctor")
        ),
        ("import covis; covis.load", {"numpy", "pydantic", "onnxruntime", "tyro"}),
        ("import covis.runtime.scene.scene, covis.runtime.photos.images, covis.runtime.pipeline",
         {"numpy", "pydantic", "PIL"}),
        ("import covis.engines.bundle.bundle", {"pydantic"}),
        ("import covis.export", set()),
        ("import covis.evaluation.metrics.pose, covis.evaluation.metrics.trajectory", {"numpy"}),
    ],
)  # fmt: skip
def test_what_is_loaded(code: str, allowed: set[str]) -> None:
    assert loaded(code) <= allowed


@pytest.mark.parametrize(
    ("arguments", "limit"), [(["-c", "import covis"], 0.3), (["-m", "covis", "--help"], 0.5)]
)
def test_time(arguments: list[str], limit: float) -> None:
    """Processor time, best of five: what others run on the machine does not count."""
    times = []
    for _ in range(5):
        before, start = os.times(), time.perf_counter()
        subprocess.run(
            [sys.executable, *arguments],
            check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        after = os.times()
        spent = after.children_user + after.children_system
        spent -= before.children_user + before.children_system
        times.append(min(spent, time.perf_counter() - start))
    assert min(times) < limit
