"""What the CUDA kernels of the selectors choose, on the host, against the contracts."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covis.export.ops.cuda.farthest import MAX_VIEWS, FarthestParams
from covis.export.ops.cuda.saliency import (
    RULES,
    PairLevelsParams,
    SimilarityParams,
    pack_pair_levels,
)
from covis.export.ops.cuda.select import SelectParams
from covis.export.selection.pair_rules import pair_levels
from tests.plugins.cuda_host import HostSelectors, library
from tests.vectors.case import Array
from tests.vectors.farthest_case import FarthestCase, standard_farthest_cases
from tests.vectors.pair_case import PairCase, pair_case
from tests.vectors.standard import standard_select_cases
from tests.vectors.strategies import farthest_cases
from tests.vectors.suite import check_farthest, check_farthest_rules, check_select


def test_standard_cases() -> None:
    adapter = HostSelectors()
    for case in standard_select_cases():
        check_select(adapter, case)


def test_traversals() -> None:
    adapter = HostSelectors()
    check_farthest_rules(adapter)
    for case in standard_farthest_cases():
        check_farthest(adapter, case)


@settings(deadline=None, max_examples=200)
@given(case=farthest_cases())
def test_any_traversal(case: FarthestCase) -> None:
    check_farthest(HostSelectors(), case)


def choose(scores: Array, keep_ratio: float, cdf: float) -> Array:
    """The kernel's choice on one row."""
    row = np.ascontiguousarray(scores, np.float32)
    kept: Array = np.zeros(len(row), np.int8)
    library().covis_host_choose(
        ctypes.c_void_p(row.ctypes.data),
        len(row),
        ctypes.c_float(keep_ratio),
        ctypes.c_float(cdf),
        ctypes.c_void_p(kept.ctypes.data),
    )
    return kept


@settings(deadline=None, max_examples=200)
@given(
    values=st.lists(st.integers(-6, 6), min_size=1, max_size=60),
    gaps=st.sets(st.integers(0, 59)),
    sixteenths=st.integers(0, 16),
    cdf=st.sampled_from([0.0, 0.3, 0.77, 0.99, 1.0]),
)
def test_ties_go_to_the_lower_index(
    values: list[int], gaps: set[int], sixteenths: int, cdf: float
) -> None:
    """Scores with many ties: the kept set is a stable sort's head, of the contract's length."""
    scores = np.array(values, np.float32)
    scores[[g for g in gaps if g < len(values)]] = -np.inf
    kept = choose(scores, sixteenths / 16, cdf)
    columns = np.flatnonzero(np.isfinite(scores))
    n = len(columns)
    if n == 0:
        assert not kept.any()
        return
    order = columns[np.argsort(-scores[columns], kind="stable")]
    weights = np.exp(scores[order].astype(np.float64) - scores[order[0]])
    mass = np.cumsum(weights) / weights.sum()
    limit = np.float64(np.float32(cdf)) + 1e-5
    counts = {
        min(max(sixteenths * n // 16, int((mass <= limit + slack).sum()), 1), n)
        for slack in (-2e-6, 2e-6)
    }
    assert int(kept.sum()) in counts
    assert set(np.flatnonzero(kept)) == set(order[: int(kept.sum())])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_scores_stay_in_bounds(bad: float) -> None:
    scores = np.linspace(-1, 1, 40, dtype=np.float32)
    scores[7] = bad
    kept = choose(scores, 0.25, 0.5)
    assert set(np.unique(kept)) <= {0, 1}
    assert 1 <= kept.sum() <= 40


@settings(deadline=None, max_examples=100)
@given(
    views=st.integers(1, 12),
    maps=st.integers(1, 3),
    values=st.sampled_from([1, 2, 8, 1000]),
    seed=st.integers(0, 1000),
)
def test_pair_levels_are_the_rule(views: int, maps: int, values: int, seed: int) -> None:
    case = pair_case(seed, views, maps, values=values)
    assert torch.equal(host_pair_levels(case), pair_levels(*case))


def test_pair_levels_of_many_views() -> None:
    """More views than one digit of an index can count."""
    case = pair_case(1, 300, 4, values=2)
    assert torch.equal(host_pair_levels(case), pair_levels(*case))


def host_pair_levels(case: PairCase) -> torch.Tensor:
    """The kernel's levels, int8 (R, M, M)."""
    level = torch.full((len(case.rules.tau), *case.similarity.shape), 77, dtype=torch.int8)
    params = pack_pair_levels(case.similarity, case.anchor_rank, case.rules._asdict(), level)
    library().covis_host_pair_levels(ctypes.byref(params))
    return level


def refusal(function: str, params: ctypes.Structure, *extra: object) -> tuple[int, str]:
    """Status and message of a plan with all pointers checked."""
    message = ctypes.create_string_buffer(300)
    size = ctypes.c_uint64()
    status = getattr(library(), function)(
        ctypes.byref(params), 1, ctypes.byref(size), *extra, message, ctypes.c_size_t(300)
    )
    return status, message.value.decode()


def good_select() -> SelectParams:
    params = SelectParams(struct_size=ctypes.sizeof(SelectParams))
    sizes = {"batch": 1, "heads": 16, "tokens": 500 * 1374, "head_dim": 64}
    layout = {"frame_tokens": 1374, "special_first": 5, "q_block": 128, "k_block": 64}
    pointers = dict.fromkeys(("q", "k", "pair", "keep_ratio", "cdf", "level"), 4096)
    rest = {"pair_frames": 500, "workspace": 4096, "workspace_bytes": 1 << 34}
    for name, value in {**sizes, **layout, **pointers, **rest}.items():
        setattr(params, name, value)
    return params


def test_select_fits_500_views_and_names_what_is_bad() -> None:
    rows = ctypes.c_int()
    extra = ctypes.byref(rows)
    assert refusal("covis_host_select_launch_plan", good_select(), extra) == (0, "")
    assert rows.value >= 4
    for field, value, words in (
        ("pool", 2, "pool is 2"),
        ("data_type", 3, "data_type is 3"),
        ("pair_frames", 499, "pair_frames is 499"),
        ("head_dim", 0, "head_dim is 0"),
        ("k_block", 1, "key blocks a row do not fit"),
        ("trailing_tokens", 3, "trailing_tokens 3"),
        ("cdf", None, "cdf is a null pointer"),
        ("cdf", 4098, "cdf is not aligned to 4 bytes"),
        ("k", 4097, "k is not aligned to 2 bytes"),
        ("workspace_bytes", 8, "workspace has 8 bytes"),
        ("workspace", 4097, "not 256-byte aligned"),
    ):
        params = good_select()
        setattr(params, field, value)
        status, message = refusal("covis_host_select_launch_plan", params, extra)
        assert status != 0
        assert words in message


def good_similarity() -> SimilarityParams:
    params = SimilarityParams(struct_size=ctypes.sizeof(SimilarityParams))
    params.views, params.patches, params.channels = 100, 1369, 1024
    params.tokens = params.similarity = params.workspace = 4096
    params.workspace_bytes = 1 << 30
    return params


def good_pair_levels() -> PairLevelsParams:
    params = PairLevelsParams(struct_size=ctypes.sizeof(PairLevelsParams), views=1000, maps=3)
    for name in ("similarity", "anchor_rank", *RULES, "level"):
        setattr(params, name, 4096)
    return params


def good_farthest() -> FarthestParams:
    params = FarthestParams(struct_size=ctypes.sizeof(FarthestParams), views=4096)
    params.similarity = params.given = params.count = params.rank = 4096
    return params


@pytest.mark.parametrize(
    ("good", "function", "field", "value", "words"),
    [
        (good_similarity, "similarity_launch_plan", "data_type", 7, "data_type is 7"),
        (good_similarity, "similarity_launch_plan", "views", 0, "views is 0, not in 1 .. 65535"),
        (good_similarity, "similarity_launch_plan", "channels", 1 << 20, "channels is 1048576"),
        (good_similarity, "similarity_launch_plan", "tokens", None, "tokens is a null pointer"),
        (good_similarity, "similarity_launch_plan", "similarity", 4098,
         "similarity is not aligned to 4 bytes"),
        (good_similarity, "similarity_launch_plan", "workspace_bytes", 1,
         "workspace has 1 bytes"),
        (good_pair_levels, "pair_levels_check", "struct_size", 8, "struct_size is 8"),
        (good_pair_levels, "pair_levels_check", "reserved", 3, "reserved is 3, not 0"),
        (good_pair_levels, "pair_levels_check", "views", 65536, "views is 65536, not in 1 .."),
        (good_pair_levels, "pair_levels_check", "maps", 0, "maps is 0, not in 1 .. 65535"),
        (good_pair_levels, "pair_levels_check", "tau", None, "tau is a null pointer"),
        (good_pair_levels, "pair_levels_check", "from_reference", None,
         "from_reference is a null pointer"),
        (good_pair_levels, "pair_levels_check", "anchors", 4100,
         "anchors is not aligned to 8 bytes"),
        (good_farthest, "farthest_check", "struct_size", 8, "struct_size is 8"),
        (good_farthest, "farthest_check", "reserved", 1, "reserved is 1, not 0"),
        (good_farthest, "farthest_check", "views", 0, "views is 0, not in 1 .. 16384"),
        (good_farthest, "farthest_check", "views", 16385, "views is 16385; up to 16384 are"),
        (good_farthest, "farthest_check", "rank", None, "rank is a null pointer"),
        (good_farthest, "farthest_check", "given", 4100, "given is not aligned to 8 bytes"),
    ],
)  # fmt: skip
def test_what_is_bad_is_named(
    good: Callable[[], ctypes.Structure], function: str, field: str, value: int | None, words: str
) -> None:
    params = good()
    assert refusal(f"covis_host_{function}", params) == (0, "")
    setattr(params, field, value)
    status, message = refusal(f"covis_host_{function}", params)
    assert status != 0
    assert words in message


def test_more_views_than_the_kernel_takes_are_named_in_python_too() -> None:
    """One limit, written on both sides of the ABI."""
    params = good_farthest()
    params.views = MAX_VIEWS
    assert refusal("covis_host_farthest_check", params) == (0, "")
    params.views += 1
    assert refusal("covis_host_farthest_check", params)[0] == 2
