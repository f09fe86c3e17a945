"""FP8 on the host: rule, lists and arithmetic of the CUDA kernels against the torch emulation."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest
import torch

from covis.export.ops import TokenLayout, block_sparse_attention, fp8, low_precision
from tests.plugins.cuda_host import HostAdapter, cost, library, params_of
from tests.plugins.test_cuda_walk import frame_pairs
from tests.vectors.case import Array, AttentionCase, Layout, attention_case
from tests.vectors.oracle import attention as exact
from tests.vectors.oracle import patch_numbers
from tests.vectors.standard import standard_cases
from tests.vectors.suite import check_attention, check_rules


def test_rounding_is_that_of_torch() -> None:
    """A seventh of all float16 values, and random float32 values over e4m3's range."""
    rng = np.random.default_rng(0)
    every = np.arange(0, 1 << 16, 7, dtype=np.uint16).view(np.float16).astype(np.float32)
    spread = rng.standard_normal(4000) * 2.0 ** rng.integers(-12, 10, 4000)
    values = np.concatenate([every[np.isfinite(every)], spread.astype(np.float32)])
    ours = np.array([library().covis_host_e4m3(ctypes.c_float(x)) for x in values], np.uint8)
    expected = torch.from_numpy(values).clamp(-448, 448).to(torch.float8_e4m3fn)
    np.testing.assert_array_equal(ours, expected.view(torch.uint8).numpy())
    assert library().covis_host_e4m3(ctypes.c_float(float("nan"))) & 0x7F == 0x7F


def test_values_are_permuted_inside_groups_of_16() -> None:
    slots = [library().covis_host_value_slot(key) for key in range(16)]
    assert sorted(slots) == list(range(16))
    assert [library().covis_host_value_key(slot) for slot in slots] == list(range(16))


class Copies:
    """The host library's FP8 copies of a case."""

    def __init__(self, case: AttentionCase) -> None:
        batch, heads, tokens, dim = case.q.shape
        patches = int((patch_numbers(case.layout, tokens) >= 0).sum())
        cells = -(-patches // 64)
        self.q8 = np.zeros((batch, heads, patches, dim), np.uint8)
        self.k8 = np.zeros_like(self.q8)
        self.v8 = np.zeros((batch, heads, dim, 64 * cells), np.uint8)
        self.q_scale = np.zeros((batch, heads, cells), np.float32)
        self.k_scale = np.zeros_like(self.q_scale)
        self.v_scale = np.zeros((batch, heads, dim), np.float32)
        self.k_mean = np.zeros_like(self.v_scale)
        arrays = [ctypes.c_void_p(x.ctypes.data) for x in vars(self).values()]
        library().covis_host_quantize(ctypes.byref(params_of(case)), *arrays)

    def rows(self, codes: Array, scale: Array) -> Array:
        """(B, H, patches, D), the numbers that codes stand for."""
        return decode(codes) * np.repeat(scale, 64, 2)[:, :, : codes.shape[2], None]

    def values(self) -> Array:
        """(B, H, patches, D), V with its permutation undone."""
        patches = self.q8.shape[2]
        slot = np.array([library().covis_host_value_slot(key) for key in range(16)])
        column = np.arange(self.v8.shape[3])
        column = column // 16 * 16 + slot[column % 16]
        wide: Array = decode(self.v8)[..., column] * self.v_scale[..., None]
        assert not wide[..., patches:].any(), "patches behind the last must be zeros"
        return np.swapaxes(wide[..., :patches], 2, 3)


def decode(codes: Array) -> Array:
    """e4m3 codes as float32."""
    numbers: Array = torch.from_numpy(codes).view(torch.float8_e4m3fn).float().numpy()
    return numbers


def emulated(case: AttentionCase) -> tuple[fp8.Quantized, Array]:
    """The torch emulation's rounded Q, K, V and the patches' token numbers."""
    q, k, v = (torch.from_numpy(x) for x in (case.q, case.k, case.v))
    patch = np.flatnonzero(patch_numbers(case.layout, case.q.shape[2]) >= 0)
    return fp8.quantize(q, k, v, torch.from_numpy(patch)), patch


@pytest.mark.parametrize("layout", [Layout(128), Layout(37, 3, 2, 7)])
def test_copies_equal_the_emulation(layout: Layout) -> None:
    """Bit for bit where K's mean is exact: multiples of 1/64, a power of two of them."""
    frames = 4
    case = attention_case("exact", seed=3, frames=frames, heads=2, head_dim=64, layout=layout)
    k = np.round(case.k * 64) / np.float32(64)
    case = replace(case, k=np.ascontiguousarray(k.astype(np.float32)))
    copies = Copies(case)
    torch_copies, patch = emulated(case)
    assert len(patch) % 64 == 0  # a sum over 2^n multiples of 2^-6 has an exact mean
    np.testing.assert_array_equal(copies.k_mean, torch_copies.mean[:, :, 0].numpy())
    for ours, theirs in (
        (copies.rows(copies.q8, copies.q_scale), torch_copies.q),
        (copies.rows(copies.k8, copies.k_scale), torch_copies.k),
        (copies.values(), torch_copies.v),
    ):
        np.testing.assert_array_equal(ours, theirs.numpy()[:, :, patch])


def test_copies_of_any_numbers() -> None:
    """K's mean depends on the order of summation by an ulp; a code may then differ by one."""
    layout = Layout(77, 5, 1, 2)
    case = attention_case("any", seed=4, frames=5, heads=3, head_dim=128, layout=layout)
    copies, (torch_copies, patch) = Copies(case), emulated(case)
    np.testing.assert_allclose(copies.k_mean, torch_copies.mean[:, :, 0].numpy(), atol=1e-6)
    ours, theirs = copies.rows(copies.k8, copies.k_scale), torch_copies.k.numpy()[:, :, patch]
    close = np.isclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert close.mean() > 0.9999
    np.testing.assert_allclose(ours, theirs, rtol=0.13, atol=1e-2)


def test_a_bad_query_spoils_no_other() -> None:
    """Scales come from finite numbers; what is not finite stays visible."""
    case = attention_case("nan", seed=5, frames=2, heads=1, head_dim=64, layout=Layout(64))
    clean = Copies(case)
    for bad in (np.nan, np.inf):
        q = case.q.copy()
        q[0, 0, 7, 3] = bad
        dirty = Copies(replace(case, q=q))
        assert dirty.q8[0, 0, 7, 3] & 0x7F == 0x7F
        others = np.arange(128) != 7
        np.testing.assert_array_equal(dirty.q8[0, 0, others], clean.q8[0, 0, others])


def test_standard_cases() -> None:
    """Within twice the error of the plain FP8 formula, as the contract asks."""
    adapter = HostAdapter(3, fp8="numbers")
    for case in standard_cases():
        check_attention(adapter, case)
    check_rules(adapter, "float32")


@pytest.mark.parametrize(
    ("layout", "blocks", "pattern"),
    [
        (Layout(134, 3, 1, 9), (130, 130), "mixed"),  # frame pairs: cells straddle frames
        (Layout(134, 3, 1, 9), (128, 64), "mixed"),  # BlockSelect's map
        (Layout(134, 3, 1, 9), (50, 33), "mixed"),  # units are pieces, some partial
        (Layout(134, 3, 1, 9), (130, 130), "ones"),  # level 1 everywhere
        (Layout(1), (1000, 1000), "ones"),  # the dense map of 1
    ],
)
def test_regime_two_equals_the_emulation(
    layout: Layout, blocks: tuple[int, int], pattern: str
) -> None:
    """Levels 1 and 2 in one softmax: far nearer to the emulation than that is to the truth.

    The emulation's P is relative to the final maximum and a kernel's to the running one, so the
    two round P differently; and tiles of mixed query rows may compute level 1 exactly.
    """
    tokens = 6 if layout.frame_tokens > 1 else 300
    case = attention_case(
        "regime",
        seed=6,
        frames=tokens,
        heads=2,
        head_dim=64,
        layout=layout,
        q_block=blocks[0],
        k_block=blocks[1],
        pattern=pattern,
        map_heads=True,
    )
    assert (case.level == 1).any()
    ours = HostAdapter(3, fp8="numbers").attention(case)
    q, k, v, level = (torch.from_numpy(x) for x in (case.q, case.k, case.v, case.level))
    with low_precision("fp8"):
        theirs = block_sparse_attention(
            q,
            k,
            v,
            level,
            layout=TokenLayout(**vars(case.layout)),
            q_block=case.q_block,
            k_block=case.k_block,
        ).numpy()
    truth = exact(case)
    error = float(np.abs(theirs - truth).max())
    assert float(np.abs(ours - truth).max()) <= 1.3 * error
    mean = float(np.abs(theirs - truth).mean())
    if blocks[0] % 64 == 0 or blocks[0] % 130 == 0 or pattern == "ones":
        assert float(np.abs(ours - theirs).mean()) <= 0.6 * mean
    else:  # tiles straddle regions: nearly all permission goes unused
        assert float(np.abs(ours - truth).mean()) <= 0.01 * mean


def test_low_lists_mask_only_the_ends_of_runs() -> None:
    """Neighbouring frames of level 1 are one run of cells: 1369 is no multiple of 64."""
    frames = 20
    case = frame_pairs(frames, 0.0)
    level = np.zeros((1, 1, frames, frames), np.int8)
    level[0, 0, :, 3:9] = 1  # one run of six frames
    level[0, 0, :, 15] = 2
    counts = cost(params_of(replace(case, level=level)), width=3, fp8=True)
    first, last = 3 * 1369 // 64, (9 * 1369 - 1) // 64
    pieces = frames * -(-1369 // 64)
    assert counts["low_blocks"] == pieces * (last - first + 1)
    assert counts["masked_low_blocks"] == 2 * pieces
    assert counts["unordered_tiles"] == 0
    without = cost(params_of(replace(case, level=level)), width=3)
    assert without["low_blocks"] == 0
    assert without["blocks"] == counts["blocks"] + pieces * 6 * 22
