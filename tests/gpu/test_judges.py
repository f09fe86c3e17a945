"""The references that judge kernels on a GPU, held against the suite's own on the CPU."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch

from tests.gpu import cases
from tests.places import ROOT
from tests.vectors import oracle, plain

# All that the package and its tests need, but for what a GPU machine has: torch and numpy.
ABSENT = (
    *("ml_dtypes", "pydantic", "tyro", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "tensorrt"),
    *("PIL", "safetensors", "hypothesis", "trimesh", "pycolmap", "scipy", "cuda"),
)
BARE = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT!r}))  # None: importing one raises
from benchmarks import attention_gpu, peers_gpu
from tests.gpu import checks, kernel_units, kernels_day, sanitizer, selector_checks, small
from tests.gpu import engines_day  # tells in a line what is missing
"""


def test_gpu_checks_need_torch_and_numpy_alone() -> None:
    command = [sys.executable, "-c", BARE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_references_are_those_of_the_suite() -> None:
    judged = 0
    for base in cases.cases():
        if base.q.shape[2] > 250:
            continue
        for case in (base, cases.all_low(base)):
            patches = oracle.patch_numbers(case.layout, case.q.shape[2]) >= 0
            low = (case.level == 1).any() and patches.any()
            expected = plain.attention_fp8(case) if low else plain.attention(case)
            ours = cases.plain_fp8(case, torch.float32, "cpu")
            # Another order of summation may round single weights to the next e4m3.
            assert np.abs(ours - expected).mean() < 1e-5, case.name
            assert np.abs(ours - expected).max() < 5e-3, case.name
        exact = cases.plain(base, torch.float32, "cpu")
        assert np.abs(exact - oracle.attention(base)).max() < 1e-4, base.name
        judged += 1
    assert judged > 10


def test_fresh_tokens_keep_sizes_and_map() -> None:
    base = next(case for case in cases.cases() if case.q.shape[2] > 100)
    fresh = cases.refresh(base, 5)
    assert fresh.level is base.level
    assert fresh.q.shape == base.q.shape
    assert not np.allclose(fresh.q, base.q)
    half = cases.rounded(fresh, torch.bfloat16)
    assert np.array_equal(half.q, torch.from_numpy(half.q).bfloat16().float().numpy())
