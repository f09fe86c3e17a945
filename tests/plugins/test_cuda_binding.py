"""The torch binding without a GPU: struct layout, argument packing, choice of path, errors."""

from __future__ import annotations

import ctypes
import logging
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from covis.engines.errors import CovisError
from covis.engines.system.native import KERNELS_LIBRARY, find_library
from covis.export.ops import TokenLayout, block_select, block_sparse_attention, farthest_first
from covis.export.ops.attributes import AttentionAttributes
from covis.export.ops.cuda import attention, binding, dispatch, farthest, saliency, select
from tests.plugins.cuda_host import ATTENTION, FARTHEST, SALIENCY, SELECT, launch_plan

STRUCTS = {
    "CovisAttentionParams": (ATTENTION / "covis_attention.h", attention.AttentionParams),
    "CovisSelectParams": (SELECT / "covis_select.h", select.SelectParams),
    "CovisFarthestParams": (FARTHEST / "covis_farthest.h", farthest.FarthestParams),
    "CovisSimilarityParams": (SALIENCY / "covis_saliency.h", saliency.SimilarityParams),
    "CovisPairLevelsParams": (SALIENCY / "covis_saliency.h", saliency.PairLevelsParams),
}


@pytest.mark.parametrize("name", STRUCTS)
def test_structs_are_those_of_the_headers(name: str, tmp_path: Path) -> None:
    """Offsets and sizes as a C compiler lays out the header."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    header, struct = STRUCTS[name]
    fields = [field[0] for field in struct._fields_]
    lines = "\n".join(
        f'printf("%zu %zu\\n", offsetof({name}, {f}), sizeof((({name}*)0)->{f}));' for f in fields
    )
    source = f"""#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include "{header.name}"
int main(void) {{ {lines} printf("%zu 0\\n", sizeof({name})); return 0; }}
"""
    (tmp_path / "offsets.c").write_text(source)
    program = tmp_path / "offsets"
    includes = [f"-I{folder}" for folder in (ATTENTION, SELECT, FARTHEST, SALIENCY)]
    subprocess.run(
        [compiler, *includes, str(tmp_path / "offsets.c"), "-o", str(program)], check=True
    )
    printed = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
    expected = [tuple(map(int, line.split())) for line in printed.split("\n") if line]
    ours = [(getattr(struct, f).offset, getattr(struct, f).size) for f in fields]
    assert [*ours, (ctypes.sizeof(struct), 0)] == expected


def test_only_what_the_copy_engine_cannot_read_is_copied() -> None:
    packed = torch.randn(2, 9, 3, 4, 64, dtype=torch.float16)
    heads = packed.permute(2, 0, 3, 1, 4)[1]
    assert attention.addressable(heads) is heads
    short, one = packed[:1, :, 0].transpose(1, 2), heads[:, :1, :1]
    assert attention.addressable(short) is short
    assert attention.addressable(one) is one
    flat = torch.randn(2 * 4 * 9 * 64 + 1, dtype=torch.float16)[1:].view(2, 4, 9, 64)
    for bad in (heads[:, :1].expand(-1, 4, -1, -1), heads[..., ::2], flat):
        copy = attention.addressable(bad)
        assert copy.is_contiguous()
        assert copy.data_ptr() != bad.data_ptr()
        assert torch.equal(copy, bad)


def test_packing_copies_nothing() -> None:
    """A packed QKV projection is described by its strides, and the library's checks accept it."""
    layout = TokenLayout(70, 3, 2, 4)
    packed = torch.zeros(2, 5 * 70 + 4, 3, 4, 64, dtype=torch.bfloat16)
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    level = torch.ones(1, 4, 5, 5, dtype=torch.int8)
    out = torch.empty_like(q)
    params = attention.pack(q, k, v, level, out, AttentionAttributes(layout, 65, 65))
    assert params.data_type == 1
    assert (params.batch, params.heads, params.tokens, params.head_dim) == (2, 4, 354, 64)
    assert (params.frame_tokens, params.special_first) == (70, 3)
    assert (params.special_last, params.trailing_tokens) == (2, 4)
    assert (params.q_block, params.k_block, params.scale) == (65, 65, 0.0)
    row = 3 * 4 * 64
    assert tuple(params.k_stride) == (354 * row, 64, row)
    assert params.v - params.q == 2 * 4 * 64 * 2
    sizes = (params.level_batch, params.level_heads, params.level_rows, params.level_cols)
    assert sizes == (1, 4, 5, 5)
    params.precision = attention.PRECISIONS["fp8"]
    made = launch_plan(params)
    assert made.status == 0, made.message
    workspace = torch.empty(made.workspace_bytes + 256, dtype=torch.uint8)
    params.workspace = -(-workspace.data_ptr() // 256) * 256
    params.workspace_bytes = made.workspace_bytes
    if out.data_ptr() % 16 == 0 and q.data_ptr() % 16 == 0:
        assert launch_plan(params, pointers=True).status == 0


def test_ops_are_registered_for_cuda() -> None:
    for name in ("block_sparse_attention", "block_select", "farthest_first"):
        assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(f"covis::{name}", "CUDA")


def test_cpu_tensors_never_reach_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_given: object, **_named: object) -> None:
        raise AssertionError("a CPU tensor was sent to the GPU's kernels")

    monkeypatch.setattr(attention, "block_sparse_attention", refuse)
    monkeypatch.setattr(select, "block_select", refuse)
    monkeypatch.setattr(farthest, "farthest_first", refuse)
    q = torch.randn(1, 2, 128, 64)
    pair = torch.full((1, 1, 1, 1), 2, dtype=torch.int8)
    level = block_select(q, q, pair, torch.tensor(0.5), torch.tensor(0.9))
    assert level.shape == (1, 2, 1, 2)
    out = block_sparse_attention(q, q, q, level, q_block=128, k_block=64)
    assert out.shape == q.shape
    rank = farthest_first(torch.eye(4), torch.tensor([2, -1, -1, -1]), 2)
    assert rank.tolist() == [1, 4, 0, 4]


def fake_cuda(dtype: torch.dtype, *, grad: bool = False) -> torch.Tensor:
    """A tensor that says it is on a GPU, and has no data."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        return torch.empty(1, 2, 128, 64, dtype=dtype, device="cuda", requires_grad=grad)


def attend(q: torch.Tensor) -> torch.Tensor | None:
    level = torch.ones(1, 1, 2, 2, dtype=torch.int8)
    attributes = AttentionAttributes(TokenLayout(64), 64, 64)
    return dispatch.block_sparse_attention(q, q, q, level, attributes)


def test_falls_back_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dispatch._log_once.cache_clear()
    caplog.set_level(logging.WARNING, "covis.export.ops")
    for _ in range(3):
        assert attend(fake_cuda(torch.float32)) is None
    assert [r.message for r in caplog.records] == [
        "CUDA tensors are computed by torch, not by covis's kernels: "
        "the type is torch.float32, not float16 or bfloat16"
    ]
    caplog.clear()
    monkeypatch.setattr(attention, "unsupported", lambda _q: None)
    monkeypatch.setattr("covis.export.ops.cuda.dispatch.find_library", lambda name: None)
    for _ in range(2):
        assert attend(fake_cuda(torch.float16)) is None
    assert len(caplog.records) == 1
    assert "make plugins" in caplog.records[0].message


def test_a_traversal_is_sent_to_the_kernel(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def taken(similarity: torch.Tensor, given: torch.Tensor, count: torch.Tensor) -> str:
        assert {x.device.type for x in (similarity, given, count)} == {"cuda"}
        assert not similarity.requires_grad
        return "kernel"

    monkeypatch.setattr(farthest, "farthest_first", taken)
    monkeypatch.setattr(farthest, "unsupported_gpu", lambda _device: None)
    monkeypatch.setattr("covis.export.ops.cuda.dispatch.find_library", lambda name: "library")
    dispatch._log_once.cache_clear()
    with FakeTensorMode():
        given, count = torch.full((9,), -1), torch.tensor(3)
        for views, expected in ((9, "kernel"), (farthest.MAX_VIEWS + 1, None)):
            similarity = torch.empty(views, views, device="cuda", requires_grad=True)
            assert dispatch.farthest_first(similarity, given, count) == expected
    (record,) = caplog.records
    assert f"{farthest.MAX_VIEWS + 1} views, more than {farthest.MAX_VIEWS}" in record.message


def test_wanted_gradients_take_the_composite_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "unsupported", lambda _q: pytest.fail("must not be asked"))
    assert attend(fake_cuda(torch.float16, grad=True)) is None


def test_library_errors(tmp_path: Path) -> None:
    """Absent and broken libraries are named, with what to do."""
    with pytest.raises(CovisError, match=r"kernels are not built.*make plugins"):
        binding.load_kernels(tmp_path / "none.so")
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    with pytest.raises(CovisError, match="cannot be used"):
        binding.load_kernels(broken)
    with pytest.raises(CovisError, match="tensors are on cpu"):
        q = torch.zeros(1, 1, 64, 64, dtype=torch.float16)
        attention.block_sparse_attention(q, q, q, torch.ones(1, 1, 1, 1, dtype=torch.int8))


def test_built_library_refuses_without_a_gpu() -> None:
    """The real library on a machine without a driver: a status and a line, no crash."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU; tests/gpu covers it")
    if find_library(KERNELS_LIBRARY) is None:
        pytest.skip("build/cuda/libcovis_kernels.so is not built (make plugins)")
    library = binding.load_kernels()
    q = torch.zeros(1, 1, 64, 64, dtype=torch.float16)
    level = torch.full((1, 1, 1, 1), 2, dtype=torch.int8)
    params = attention.pack(q, q, q, level, torch.empty_like(q), AttentionAttributes())
    size = ctypes.c_uint64()
    for function, extra in (
        ("covis_attention_workspace", ctypes.byref(size)),
        ("covis_attention_launch", None),
    ):
        with pytest.raises(CovisError, match="no usable CUDA device"):
            binding.call(library, function, ctypes.byref(params), extra)
    for struct, name in (
        (select.SelectParams, "covis_select_launch"),
        (farthest.FarthestParams, "covis_farthest_launch"),
        (saliency.SimilarityParams, "covis_similarity_launch"),
        (saliency.PairLevelsParams, "covis_pair_levels_launch"),
    ):
        empty = struct(struct_size=ctypes.sizeof(struct))
        with pytest.raises(CovisError, match="0, not in 1"):
            binding.call(library, name, ctypes.byref(empty), None)
