"""What the vectors do not ask of the attention kernels: strides, NaN, FP8 itself, wild maps.

The rules of tests/gpu/checks.py, with smaller tensors. All of it by default.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from covis.engines.errors import CovisError
from covis.export.ops.attributes import AttentionAttributes
from covis.export.ops.cuda import attention
from covis.export.ops.layout import TokenLayout
from tests.emulator.emulator import Emulator, StoppedError
from tests.emulator.judge import SUMMARY, question
from tests.gpu import cases
from tests.gpu.checks import Subject
from tests.vectors.case import Layout, attention_case


def options_of(subject: Subject) -> dict[str, Any]:
    return {"kernel": subject.kernel, "precision": subject.precision}


@pytest.mark.parametrize("dim", [64, 128])
def test_strides(emulator: Emulator, subjects: list[Subject], dim: int) -> None:
    """Packed QKV gives the bits of whole tensors; a strided output's gaps stay as they were."""
    torch.manual_seed(1)
    packed = torch.randn(2, 203, 3, 2, dim).half()
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    for subject in subjects:
        if subject.kernel == "hopper-polynomial" and dim != 64:
            continue
        level = torch.full((1, 1, 1, 1), subject.level, dtype=torch.int8)
        options: dict[str, Any] = {
            "layout": TokenLayout(67, 3, 1, 2),
            "q_block": 63,
            "k_block": 63,
            **options_of(subject),
        }
        whole = emulator.attention(q.contiguous(), k.contiguous(), v.contiguous(), level, **options)
        room = torch.full((2, 205, 3, 2, dim), 7.0).half()
        out = room.permute(2, 0, 3, 1, 4)[1][:, :, 1:-1]
        emulator.attention(q, k, v, level, out=out, **options)
        assert torch.equal(out, whole), subject.name
        out.fill_(7.0)
        assert bool((room == 7.0).all()), f"{subject.name} wrote outside its rows"
        assert not emulator.take_findings()
        SUMMARY.other["strided tensors"] += 1


def test_nan(emulator: Emulator, subjects: list[Subject]) -> None:
    """NaN and Inf in two queries spoil these rows alone; NaN in a key reaches all of its head."""
    torch.manual_seed(2)
    q, k, v = (torch.randn(2, 2, 320, 64).half() for _ in range(3))
    level = torch.randint(1, 3, (1, 1, 3, 3), dtype=torch.int8)
    places = ((1, 0, 77, 5), (1, 0, 300, 0))
    rows, heads = torch.ones(2, 2, 320, dtype=torch.bool), torch.ones(2, 2, dtype=torch.bool)
    heads[1, 0] = False
    for place in places:
        rows[place[:3]] = False
        q[place] = 0.0  # not the largest of an FP8 cell
    wild_q, wild_k = q.clone(), k.clone()
    wild_q[places[0]], wild_q[places[1]] = torch.nan, torch.inf
    wild_k[1, 0, 290, 5] = torch.nan  # a column whose exponentials the polynomial may compute
    for subject in subjects:
        options = {"q_block": 128, "k_block": 128, **options_of(subject)}
        clean = emulator.attention(q, k, v, level, **options)
        assert bool(clean.isfinite().all()), subject.name
        dirty = emulator.attention(wild_q, k, v, level, **options)
        assert torch.equal(clean[rows], dirty[rows]), subject.name
        assert bool(dirty[1, 0, 77].isnan().all()), subject.name
        dirty = emulator.attention(q, wild_k, v, level, **options)
        assert bool(dirty[1, 0].isnan().all()), subject.name
        assert torch.equal(clean[heads], dirty[heads]), subject.name
        assert not emulator.take_findings()
        SUMMARY.other["rows of NaN"] += 1


def test_kernels_without_fp8_take_the_permission(emulator: Emulator) -> None:
    torch.manual_seed(3)
    q, k, v = (torch.randn(1, 2, 320, 64).half() for _ in range(3))
    level = torch.randint(0, 3, (1, 1, 5, 5), dtype=torch.int8)
    precisions: tuple[attention.Precision, ...] = ("full", "fp8")
    full, low = (
        emulator.attention(
            q, k, v, level, q_block=64, k_block=64, kernel="portable", precision=precision
        )
        for precision in precisions
    )
    assert torch.equal(full, low)


def test_fp8_kernels_compute_in_fp8(emulator: Emulator) -> None:
    """With level 1 the FP8 kernel gives other bits than with level 2; without FP8 the same."""
    torch.manual_seed(4)
    q, k, v = (torch.randn(1, 1, 256, 64).half() for _ in range(3))
    outs = {}
    precisions: tuple[attention.Precision, ...] = ("full", "fp8")
    for precision in precisions:
        for level in (1, 2):
            given = torch.full((1, 1, 1, 1), level, dtype=torch.int8)
            outs[precision, level] = emulator.attention(q, k, v, given, precision=precision)
    assert torch.equal(outs["full", 1], outs["full", 2])
    assert torch.equal(outs["fp8", 2], outs["full", 2])
    assert not torch.equal(outs["fp8", 1], outs["full", 1])


@pytest.mark.parametrize(
    ("layout", "frames", "blocks", "pattern", "dim"),
    [
        (Layout(64), 1, (64, 64), "ones", 64),
        (Layout(128), 1, (128, 128), "ones", 64),
        (Layout(128), 1, (128, 128), "ones", 128),
        (Layout(133, 3, 2, 1), 4, (128, 128), "mixed", 64),
        (Layout(131, 3), 4, (128, 64), "mixed", 128),
    ],
)
def test_fp8_follows_the_scheme(
    emulator: Emulator,
    layout: Layout,
    frames: int,
    blocks: tuple[int, int],
    pattern: str,
    dim: int,
) -> None:
    """The kernel errs as the scheme in torch does, and where one tile holds all, by the same bits.

    Over several tiles P is rounded against the running maximum, so that errors differ in detail.
    """
    sizes: dict[str, Any] = {
        "frames": frames,
        "layout": layout,
        "q_block": blocks[0],
        "k_block": blocks[1],
    }
    case = attention_case("scheme", **sizes, pattern=pattern, head_dim=dim, seed=9)
    mean = 3 * np.random.default_rng(4).standard_normal((1, 1, 1, dim), dtype=np.float32)
    asked = question(replace(case, k=case.k + mean), torch.float16, fp8=True)
    scheme = cases.plain_fp8(asked.case, torch.float16, "cpu")
    out = asked.run(emulator, Subject(emulator.library, "hopper", "fp8")).float().numpy()
    wanted, error, apart = (
        float(np.sqrt((x**2).mean()))
        for x in (scheme - asked.exact, out - asked.exact, out - scheme)
    )
    assert abs(error - wanted) < 0.05 * wanted
    assert apart < (0.02 if frames == 1 else 0.6) * wanted
    SUMMARY.other["FP8 scheme"] += 1


def test_a_read_behind_the_level_map_is_seen(emulator: Emulator) -> None:
    """A map of one region that says it has 64 x 64, as in `tests.gpu.small --fault`."""
    q = torch.randn(1, 1, 64 * 64, 64).half()
    level, out = torch.full((1, 1, 1, 1), 2, dtype=torch.int8), torch.empty_like(q)
    params = attention.pack(q, q, q, level, out, AttentionAttributes(TokenLayout(64), 64, 64))
    params.level_rows = params.level_cols = 64
    with pytest.raises(StoppedError, match=r"measure_rows.* outside all allocations"):
        emulator.call("covis_attention", params, (q, level), (out,))


def test_the_library_refuses_in_its_own_words(emulator: Emulator) -> None:
    q = torch.randn(1, 1, 64, 64).half()
    level = torch.full((1, 1, 1, 1), 2, dtype=torch.int8)
    out = torch.empty_like(q)
    params = attention.pack(q, q, q, level, out, AttentionAttributes())
    params.scale = -1.0
    with pytest.raises(CovisError, match="scale"):
        emulator.call("covis_attention", params, (q, level), (out,))
