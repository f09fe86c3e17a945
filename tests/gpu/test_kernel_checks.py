"""The kernel checks themselves: a right kernel passes, and each way of being wrong is caught.

The kernel is acted by torch on the CPU.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from covis.export.ops.attention import block_sparse_attention
from covis.export.ops.attributes import AttentionAttributes
from tests.gpu import cases, checks
from tests.gpu.kernel_units import kernel_units
from tests.gpu.on_cpu import OnCpu
from tests.gpu.units import WrongError

Tensor = torch.Tensor
Kernel = Callable[..., Tensor]
VECTORS = "vectors hopper full"
CALLS = itertools.count()


def right(q: Tensor, k: Tensor, v: Tensor, level: Tensor, **options: Any) -> Tensor:
    """The op as its contract has it, in float32, rounded to the type of the tokens."""
    given = {name: options[name] for name in ("layout", "q_block", "k_block", "scale")
             if name in options}  # fmt: skip
    found = block_sparse_attention(q.float(), k.float(), v.float(), level, **given).to(q.dtype)
    out = options.get("out")
    return found if out is None else out.copy_(found)


def skipping(q: Tensor, k: Tensor, v: Tensor, level: Tensor, **options: Any) -> Tensor:
    """As if the last computed pair of regions were skipped."""
    less = level.clone()
    places = (less > 0).nonzero()
    if len(places):
        less[tuple(places[-1])] = 0
    return right(q, k, v, less, **options)


def unwritten(q: Tensor, k: Tensor, v: Tensor, level: Tensor, **options: Any) -> Tensor:
    """The last row is not written."""
    found = right(q, k, v, level, **{**options, "out": None})
    out: Tensor = options.get("out", torch.full_like(found, torch.nan))
    out[:, :, :-1] = found[:, :, :-1]
    return out


def unsteady(q: Tensor, k: Tensor, v: Tensor, level: Tensor, **options: Any) -> Tensor:
    """Right but for the last bit of one number, which changes with every call."""
    found = right(q, k, v, level, **options)
    found.view(torch.int16)[0, 0, 0, 0] ^= next(CALLS) % 2
    return found


def leaking(q: Tensor, k: Tensor, v: Tensor, level: Tensor, **options: Any) -> Tensor:
    """A bad query spoils its neighbours."""
    found = right(q, k, v, level, **options)
    bad = found.isnan().any(-1, keepdim=True)
    return torch.where(bad | bad.roll(1, 2), torch.nan, found)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Kernel], list[Any]]]:
    small = [case for case in cases.cases() if case.q.shape[2] <= 130][:8]
    assert len(small) > 4
    monkeypatch.setattr(checks, "cases", lambda: iter(small))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)

    def check(name: str, kernel: Kernel) -> list[Any]:
        def bound(q: Tensor, k: Tensor, v: Tensor, level: Tensor,
                  attributes: AttentionAttributes, **options: Any) -> Tensor:  # fmt: skip
            return kernel(q, k, v, level, **vars(attributes), **options)

        monkeypatch.setattr(checks, "block_sparse_attention", bound)
        found: list[Any] = kernel_units(ctypes.CDLL(None), hopper=True)[name]()
        return found

    with OnCpu():
        yield check


@pytest.mark.parametrize(
    "name", [VECTORS, "vectors portable full", "strides hopper full", "permission",
             "nan portable full"],
)  # fmt: skip
def test_a_right_kernel_passes(run: Callable[[str, Kernel], list[Any]], name: str) -> None:
    records = run(name, right)
    assert records and all(record["ok"] for record in records)


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        (VECTORS, skipping),
        (VECTORS, unwritten),
        (VECTORS, unsteady),
        ("nan portable full", leaking),
        ("strides hopper full", unsteady),
    ],
)
def test_a_wrong_kernel_is_caught(
    run: Callable[[str, Kernel], list[Any]], name: str, kernel: Kernel
) -> None:
    with pytest.raises(WrongError) as caught:
        run(name, kernel)
    records = caught.value.records
    assert not records[0]["ok"]  # the wrong ones first
    if kernel is unsteady and name == VECTORS:
        assert not records[0]["bitwise_repeat"]


def test_the_settings_of_torch_are_put_back(run: Callable[[str, Kernel], list[Any]]) -> None:
    run("permission", right)
    assert not torch.are_deterministic_algorithms_enabled()
