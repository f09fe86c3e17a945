"""The torch ops and the ONNX function bodies pass the suite of the contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.vectors.case import AttentionCase, SelectCase
from tests.vectors.farthest_case import FarthestCase, standard_farthest_cases
from tests.vectors.function_adapter import OrtOps
from tests.vectors.standard import standard_cases, standard_select_cases
from tests.vectors.strategies import attention_cases, farthest_cases, select_cases
from tests.vectors.suite import (
    Adapter,
    check_attention,
    check_farthest,
    check_farthest_rules,
    check_rules,
    check_select,
)
from tests.vectors.torch_adapter import TorchOps

ATTENTION = {case.name: case for case in standard_cases()}
SELECT = {case.name: case for case in standard_select_cases()}
# The half types differ from float32 in rounding alone: a few cases show that.
HALF = ("frame-pair-mixed", "no-special-empty_rows", "odd-regions", "trailing", "head-dim-40",
        "sharp", "pooled", "dense-low", "one-token")  # fmt: skip
DTYPE_CASES = [("float32", name) for name in ATTENTION] + [
    (dtype, name) for dtype in ("float16", "bfloat16") for name in HALF
]
ADAPTERS: dict[str, Adapter] = {
    "torch": TorchOps(),
    "torch-fp8": TorchOps("fp8"),
    "function": OrtOps(threads=1),
}
QUICK = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    # Hundreds of tiny attentions: waking a second thread costs more than it computes.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("dtype", "name"), DTYPE_CASES)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_attention(adapter: str, dtype: str, name: str) -> None:
    check_attention(ADAPTERS[adapter], ATTENTION[name].cast(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("adapter", ["torch", "function"])
def test_select(adapter: str, dtype: str) -> None:
    for case in SELECT.values():
        check_select(ADAPTERS[adapter], case.cast(dtype))


@pytest.mark.parametrize("adapter", ["torch", "function"])
def test_farthest(adapter: str) -> None:
    for case in standard_farthest_cases():
        check_farthest(ADAPTERS[adapter], case)
    check_farthest_rules(ADAPTERS[adapter])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_rules(adapter: str, dtype: str) -> None:
    check_rules(ADAPTERS[adapter], dtype)


@pytest.mark.parametrize("adapter", ["torch", "function"])
@QUICK
@given(case=attention_cases(), dtype=st.sampled_from(["float32", "float16", "bfloat16"]))
def test_attention_of_any_shape(adapter: str, case: AttentionCase, dtype: str) -> None:
    check_attention(ADAPTERS[adapter], case.cast(dtype))


@pytest.mark.parametrize("adapter", ["torch", "function"])
@QUICK
@given(case=select_cases(), dtype=st.sampled_from(["float32", "float16", "bfloat16"]))
def test_select_of_any_shape(adapter: str, case: SelectCase, dtype: str) -> None:
    check_select(ADAPTERS[adapter], case.cast(dtype))


@pytest.mark.parametrize("adapter", ["torch", "function"])
@QUICK
@given(case=farthest_cases())
def test_farthest_of_any_shape(adapter: str, case: FarthestCase) -> None:
    check_farthest(ADAPTERS[adapter], case)
