"""The FP8 emulation of level 1: it changes level 1 alone, and follows the published scheme."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from covis.engines.errors import CovisError
from covis.export.ops import TokenLayout, block_sparse_attention, low_precision
from covis.export.ops.fp8 import e4m3, quantize
from tests.vectors import plain
from tests.vectors.case import AttentionCase, Layout
from tests.vectors.standard import standard_cases
from tests.vectors.torch_adapter import TorchOps

LAYOUT = TokenLayout(21, 5)
CASES = {case.name: case for case in standard_cases()}


def attend(level: Tensor, k_shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    q, k, v = torch.randn(3, 1, 2, 21 * 4, 32, generator=generator)
    return block_sparse_attention(q, k + k_shift, v, level, layout=LAYOUT, q_block=16, k_block=16)


def test_only_level_one_is_touched() -> None:
    level = torch.tensor([[2, 1, 0, 2], [2, 2, 0, 0], [0, 0, 0, 2], [2, 2, 2, 1]])
    level = level.to(torch.int8)[None, None]
    exact = attend(level)
    with low_precision("fp8"):
        changed = (attend(level) - exact).abs().amax((0, 1, 3))
    frames = changed[: 21 * 4].view(4, 21)
    assert frames[0, 5:].min() > 1e-4 and frames[3, 5:].min() > 1e-4
    # Rows with no level-1 key differ by rounding only, and special queries not even by that.
    assert frames[1:3].max() < 2e-6
    assert frames[:, :5].max() == 0


def test_the_switch_is_off_outside_its_block() -> None:
    ones = torch.ones(1, 1, 4, 4, dtype=torch.int8)
    before = attend(ones)
    with pytest.raises(ZeroDivisionError), low_precision("fp8"):
        1 / 0  # noqa: B018
    assert torch.equal(before, attend(ones))
    with low_precision("fp8"), low_precision("exact"):
        assert torch.equal(before, attend(ones))


def test_a_shift_of_all_keys_costs_no_accuracy() -> None:
    # Without removing K's mean, a shift of 30 would take all of e4m3's three bits.
    ones = torch.ones(1, 1, 4, 4, dtype=torch.int8)
    exact = attend(ones)
    with low_precision("fp8"):
        plain_error = (attend(ones) - exact).abs().max()
        shifted_error = (attend(ones, 30.0) - attend(ones)).abs().max()
    assert shifted_error < plain_error


@pytest.mark.parametrize("name", ["frame-pair-ones", "frame-pair-mixed", "no-special-mixed"])
def test_it_is_the_scheme_of_the_plain_formula(name: str) -> None:
    case = CASES[name]
    out, expected = TorchOps("fp8").attention(case), plain.attention_fp8(case)
    # A probability on the border of two e4m3 values may fall either way: 2^-4 of its weight.
    assert float(np.abs(out - expected).max()) < 2e-3
    assert float(np.abs(out - expected).mean()) < 2e-5


def test_no_patch_is_nothing_to_round() -> None:
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 1, 2, 10, 32)).astype(np.float32)
    level = np.ones((1, 1, 1, 1), np.int8)
    case = AttentionCase("trailing tokens alone", q, k, v, level, Layout(trailing_tokens=10))
    expected = plain.attention(case)
    np.testing.assert_allclose(plain.attention_fp8(case), expected, atol=1e-6)
    np.testing.assert_allclose(TorchOps("fp8").attention(case), expected, atol=1e-6)


def test_e4m3_rounds_to_three_bits_and_saturates() -> None:
    x = torch.tensor([1.0, 1.06, 1.07, 17.0, 448.0, 1e6, -1e6, 2.0**-9, 2.0**-11])
    expected = torch.tensor([1.0, 1.0, 1.125, 16.0, 448.0, 448.0, -448.0, 2.0**-9, 0.0])
    torch.testing.assert_close(e4m3(x), expected, rtol=0, atol=0)


def test_scales_are_per_block_and_per_channel() -> None:
    x = torch.randn(1, 1, 128, 8)
    big = x.clone()
    big[:, :, 64:] *= 1000.0
    patch = torch.arange(128)
    first, second = quantize(x, x, x, patch), quantize(big, x, x, patch)
    assert torch.equal(first.q[:, :, :64], second.q[:, :, :64])
    big = x.clone()
    big[..., 3] *= 1000.0
    third = quantize(x, x, big, patch)
    keep = [i for i in range(8) if i != 3]
    assert torch.equal(first.v[..., keep], third.v[..., keep])


def test_unknown_mode() -> None:
    with pytest.raises(CovisError, match="low_precision: is 'int4'"), low_precision("int4"):
        pass
