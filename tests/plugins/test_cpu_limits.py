"""Memory beyond inputs and outputs stays small, and offsets past 2^31 elements are right."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto

from tests.places import ROOT
from tests.plugins.native import library
from tests.plugins.sessions import model, session
from tests.vectors import oracle
from tests.vectors.case import AttentionCase

# Peak memory is a process's own: the run has one to itself. Prints the growth in bytes.
GROWTH = """
import resource, sys
import numpy as np
from tests.plugins.sessions import model, session

tokens, blocked = int(sys.argv[1]), sys.argv[2] == "blocked"
attributes = {"q_block": 128, "k_block": 64} if blocked else {}
made = session(model("BlockSparseAttention", attributes))
rows, columns = (-(-tokens // 128), -(-tokens // 64)) if blocked else (1, 1)
level = np.full((1, 1, rows, columns), 2, np.int8)
level[:, :, 1:, 8:] = 0

def feeds(count, level):
    generator = np.random.default_rng(0)
    shape = (1, 1, count, 32)
    tensors = {n: generator.standard_normal(shape, dtype=np.float32) for n in "QKV"}
    return {**tensors, "level": level}

def bind(given, out):
    binding = made.io_binding()
    for name, value in given.items():
        binding.bind_cpu_input(name, value)
    binding.bind_output("O", "cpu", 0, np.float32, out.shape, out.ctypes.data)
    return binding

small = feeds(256, np.full((1, 1, 1, 1), 2, np.int8))
out = np.zeros((1, 1, 256, 32), np.float32)
made.run_with_iobinding(bind(small, out))  # the threads' stacks and the library are not counted
large = feeds(tokens, level)
out = np.ones((1, 1, tokens, 32), np.float32)
binding = bind(large, out)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made.run_with_iobinding(binding)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
@pytest.mark.parametrize(("tokens", "kind"), [(24_000, "dense"), (400_000, "blocked")])
def test_memory_beyond_inputs_and_outputs(tokens: int, kind: str) -> None:
    library()  # built here, not in the measured process
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(tokens), kind],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 16 << 20, "the contract says 64 MiB; two threads need a few"


@pytest.mark.slow
def test_offsets_past_2_31_elements() -> None:
    """float16 (2049, 1024, 16, 64): only the last head is not zero, and it must be the last's."""
    shape = (2049, 1024, 16, 64)
    assert np.prod(shape, dtype=np.int64) > 2**31
    proto = model("BlockSparseAttention", {})
    for value in (*proto.graph.input[:3], *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    made = session(proto)
    tokens = np.zeros(shape, np.float16)  # pages that are only read take no memory
    last = np.random.default_rng(0).standard_normal((1, 1, 16, 64)).astype(np.float16)
    tokens[-1, -1] = last
    out = np.full(shape, 7, np.float16)
    binding = made.io_binding()
    for name in "QKV":
        binding.bind_input(name, "cpu", 0, np.float16, shape, tokens.ctypes.data)
    binding.bind_cpu_input("level", np.full((1, 1, 1, 1), 2, np.int8))
    binding.bind_output("O", "cpu", 0, np.float16, shape, out.ctypes.data)
    made.run_with_iobinding(binding)
    case = AttentionCase("last", last, last, last, np.full((1, 1, 1, 1), 2, np.int8))
    assert np.abs(out[-1:, -1:].astype(np.float64) - oracle.attention(case)).max() < 4e-3
    out[-1, -1] = 0
    assert not out.any()
