"""libcovis_ort passes the suite that every implementation of the ops passes."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings

from tests.golden_data import golden, golden_json
from tests.plugins.native import library
from tests.vectors.case import Layout, SelectCase
from tests.vectors.farthest_case import FarthestCase, standard_farthest_cases
from tests.vectors.function_adapter import OrtOps
from tests.vectors.standard import standard_cases, standard_select_cases
from tests.vectors.strategies import farthest_cases
from tests.vectors.suite import (
    check_attention,
    check_farthest,
    check_farthest_rules,
    check_rules,
    check_select,
)

ATTENTION = {case.name: case for case in standard_cases()}
SELECT = {case.name: case for case in standard_select_cases()}
FARTHEST = {case.name: case for case in standard_farthest_cases()}


@functools.cache
def ops() -> OrtOps:
    return OrtOps(library())


@pytest.mark.parametrize("dtype", OrtOps.dtypes)
@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name: str, dtype: str) -> None:
    assert check_attention(ops(), ATTENTION[name].cast(dtype)) <= 1.0


@pytest.mark.parametrize("dtype", OrtOps.dtypes)
@pytest.mark.parametrize("name", SELECT)
def test_select(name: str, dtype: str) -> None:
    check_select(ops(), SELECT[name].cast(dtype))


@pytest.mark.parametrize("name", FARTHEST)
def test_farthest(name: str) -> None:
    check_farthest(ops(), FARTHEST[name])


@settings(deadline=None, max_examples=200)
@given(case=farthest_cases())
def test_any_traversal(case: FarthestCase) -> None:
    check_farthest(ops(), case)


def test_traversals_have_one_order() -> None:
    check_farthest_rules(ops())


@pytest.mark.parametrize("dtype", OrtOps.dtypes)
def test_rules(dtype: str) -> None:
    check_rules(ops(), dtype)


@pytest.mark.parametrize("name", [f"sparse_a{i}" for i in range(1, 6)])
def test_select_gives_the_original_masks(name: str) -> None:
    """The masks of the original selector, bit for bit on the patch columns."""
    from safetensors.numpy import load_file

    record, tensors = golden_json(f"{name}.json"), load_file(golden(f"{name}.safetensors"))
    patches = record["H"] * record["W"]
    layout = Layout(patches + record["special_per_frame"], record["special_per_frame"])
    columns = record["k_blocks_patch"]
    for mode in record["modes"]:
        case = SelectCase(
            name=f"{name}-{mode['mask']}",
            q=tensors["q"],
            k=tensors["k"],
            pair=np.full((1, 1, 1, 1), 2, np.int8),
            keep_ratio=_keep_ratio(mode, columns),
            cdf=float(np.float32(mode.get("cdf_threshold", 0.0))),
            layout=layout,
            pool="max" if record.get("pool") == "max" else "mean",
        )
        mask = tensors[mode["mask"]][..., :columns]
        differs = ((ops().select(case) > 0) != (mask > 0)).any(-1).sum()
        assert differs <= mode.get("fp32_vs_fp64_rows_differing", 0), case.name


def _keep_ratio(mode: dict[str, float], columns: int) -> float:
    """The ratio whose floor is the original's number of blocks."""
    if "topk" in mode:
        count = min(max(int(mode["topk"]), 1), columns)
    elif "sparse_ratio" in mode:
        count = int(columns * (1 - mode["sparse_ratio"]))
    else:
        return 0.0
    return min((count + 0.5) / columns, 1.0)
