"""Bad params get a status and a message that names the field and its value, before any launch."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from covis.export.ops.cuda.attention import AttentionParams
from tests.plugins.cuda_host import launch_plan, library, params_of
from tests.vectors.case import AttentionCase, Layout

BAD, UNSUPPORTED, WORKSPACE, NO_DEVICE = 1, 2, 3, 4


def good() -> tuple[AttentionCase, AttentionParams]:
    """Four frames of VGGT's sizes in float16's strides."""
    layout = Layout(1374, 5)
    q = np.broadcast_to(np.float32(0), (2, 16, 4 * 1374, 64))
    level = np.full((1, 1, 4, 4), 2, np.int8)
    case = AttentionCase("good", q, q, q, level, layout, 1369, 1369)
    params = params_of(case)
    params.q = params.k = params.v = params.o = 1 << 20
    params.workspace, params.workspace_bytes = 1 << 20, 1 << 30
    return case, params


def test_good_params_pass() -> None:
    _case, params = good()
    assert launch_plan(params, pointers=True).status == 0
    assert launch_plan(params).hopper
    assert not launch_plan(params, capability=89).hopper
    assert not launch_plan(params, capability=100).hopper


@pytest.mark.parametrize(
    ("field", "value", "status", "words"),
    [
        ("struct_size", 8, BAD, "struct_size is 8"),
        ("data_type", 2, UNSUPPORTED, "data_type is 2"),
        ("precision", 5, BAD, "precision is 5"),
        ("kernel", 9, BAD, "kernel is 9"),
        ("reserved", 1, BAD, "reserved is 1"),
        ("batch", 0, BAD, "batch is 0"),
        ("heads", -1, BAD, "heads is -1"),
        ("tokens", 0, BAD, "tokens is 0"),
        ("tokens", 1 << 40, BAD, "tokens is 1099511627776"),
        ("head_dim", 80, UNSUPPORTED, "head_dim is 80"),
        ("frame_tokens", 0, BAD, "frame_tokens is 0"),
        ("frame_tokens", 1000, BAD, "tokens 5496 are not frames of frame_tokens 1000"),
        ("special_first", 1374, BAD, "special_first 1374"),
        ("special_last", -1, BAD, "special_last -1"),
        ("special_last", 1369, BAD, "special_last 1369"),
        ("trailing_tokens", 1, BAD, "trailing_tokens 1"),
        ("q_block", 0, BAD, "q_block is 0"),
        ("k_block", 1 << 33, BAD, "k_block is 8589934592"),
        ("k_block", 1368, BAD, "level is (1, 1, 4, 4)"),
        ("scale", -1.0, UNSUPPORTED, "scale is -1"),
        ("scale", float("nan"), UNSUPPORTED, "scale is nan"),
        ("q", None, BAD, "q is a null pointer"),
        ("v", (1 << 20) + 8, BAD, "v is not 16-byte aligned"),
        ("k_stride", (5496 * 64 * 16, 5496 * 64, 63), BAD, "k_stride[2] is 63"),
        ("o_stride", (5496 * 64 * 16, 5496 * 64 + 4, 64), BAD, "o_stride[1] is 351748"),
        ("q_stride", (0, 0, 56), BAD, "q_stride[2] is 56"),
        ("level", None, BAD, "level is a null pointer"),
        ("level_batch", 3, BAD, "level is (3, 1, 4, 4)"),
        ("level_heads", 2, BAD, "level is (1, 2, 4, 4)"),
        ("level_rows", 5, BAD, "level is (1, 1, 5, 4)"),
        ("level_cols", 0, BAD, "level is (1, 1, 4, 0)"),
        ("workspace", None, WORKSPACE, "null or not 256-byte aligned"),
        ("workspace", (1 << 20) + 16, WORKSPACE, "not 256-byte aligned"),
        ("workspace_bytes", 10, WORKSPACE, "workspace has 10 bytes"),
    ],
)
def test_each_bad_field_is_named(field: str, value: object, status: int, words: str) -> None:
    _case, params = good()
    if isinstance(value, tuple):
        value = (ctypes.c_int64 * 3)(*value)
    setattr(params, field, value)
    made = launch_plan(params, pointers=True)
    assert made.status == status, made.message
    assert words in made.message
    assert "\n" not in made.message


def test_fp8_is_a_permission() -> None:
    """Kernels without FP8 take precision 1 and compute level 1 as level 2."""
    case, params = good()
    full = {capability: launch_plan(params, capability).workspace_bytes for capability in (80, 90)}
    params.precision = 1
    params.kernel = 2
    assert launch_plan(params).workspace_bytes == full[80]
    params.kernel = 0
    assert launch_plan(params, 80).workspace_bytes == full[80]
    fp8 = launch_plan(params)
    assert fp8.status == 0, fp8.message
    heads, dim = 2 * 16, case.q.shape[3]
    patches = 4 * 1369
    cells = -(-patches // 64)
    parts = [heads * patches * dim] * 2 + [heads * dim * cells * 64] + [heads * cells * 4] * 2
    parts += [heads * dim * 4] * 2 + [heads * patches * 4]
    parts += [heads * -(-patches // 1024) * 2 * dim * 4]
    assert fp8.workspace_bytes == full[90] + sum(-(-part // 256) * 256 for part in parts)
    params.workspace_bytes = fp8.workspace_bytes - 1
    assert launch_plan(params, pointers=True).status == WORKSPACE
    params.workspace_bytes = fp8.workspace_bytes
    assert launch_plan(params, pointers=True).status == 0


def test_fp8_without_patches() -> None:
    """Only special tokens: nothing to round, and no tensor map of no rows."""
    nothing = np.broadcast_to(np.float32(0), (1, 2, 7, 64))
    layout = Layout(1374, 5, 0, 7)
    case = AttentionCase(
        "t", nothing, nothing, nothing, np.full((1, 1, 1, 1), 1, np.int8), layout, 1369, 1369
    )
    params = params_of(case)
    size = launch_plan(params).workspace_bytes
    params.precision = 1
    assert (launch_plan(params).status, launch_plan(params).workspace_bytes) == (0, size)


@pytest.mark.parametrize(("capability", "kernel"), [(75, 0), (70, 2), (80, 1), (120, 3)])
def test_gpu_without_the_kernel(capability: int, kernel: int) -> None:
    _case, params = good()
    params.kernel = kernel
    made = launch_plan(params, capability=capability)
    assert made.status == NO_DEVICE
    assert f"{capability // 10}.{capability % 10}" in made.message


def test_polynomial_kernel_is_for_64() -> None:
    nothing = np.broadcast_to(np.float32(0), (1, 1, 128, 128))
    case = AttentionCase("dense", nothing, nothing, nothing, np.full((1, 1, 1, 1), 2, np.int8))
    params = params_of(case)
    params.kernel = 3
    assert launch_plan(params).status == UNSUPPORTED


def test_thousand_views_and_one_token() -> None:
    """64-bit sizes: 1,374,000 tokens of 16 heads pass 2^31 elements; S = 1 is one tile."""
    nothing = np.broadcast_to(np.float32(0), (1, 16, 1000 * 1374, 64))
    level = np.broadcast_to(np.int8(2), (1, 1, 1000, 1000))
    layout = Layout(1374, 5)
    params = params_of(AttentionCase("long", nothing, nothing, nothing, level, layout, 1369, 1369))
    made = launch_plan(params)
    assert made.status == 0, made.message
    assert made.tiles >= 16 * 1000 * 8
    # Specials of Q, K, V and the order: far below one percent of the four tensors.
    assert made.workspace_bytes < 0.01 * 4 * nothing.size * 2
    params.precision = 1  # and three bytes an element of one of them
    copies = launch_plan(params).workspace_bytes - made.workspace_bytes
    assert 3.0 * nothing.size * (1369 / 1374) <= copies < 3.1 * nothing.size

    one = np.broadcast_to(np.float32(0), (1, 1, 1, 64))
    params = params_of(AttentionCase("one", one, one, one, np.full((1, 1, 1, 1), 2, np.int8)))
    made = launch_plan(params)
    assert (made.status, made.tiles) == (0, 1)


def test_more_tiles_than_a_grid_are_refused() -> None:
    nothing = np.broadcast_to(np.float32(0), (1 << 14, 1 << 8, 1 << 20, 64))
    params = params_of(
        AttentionCase("huge", nothing, nothing, nothing, np.full((1, 1, 1, 1), 2, np.int8))
    )
    made = launch_plan(params)
    assert made.status == UNSUPPORTED
    assert "query tiles" in made.message


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("fp8", [0, 1])
def test_shared_memory_fits(head_dim: int, fp8: int) -> None:
    assert 128 * 1024 < library().covis_host_shared_bytes(head_dim, fp8) <= 227 * 1024
