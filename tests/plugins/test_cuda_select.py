"""BlockSelect's choice as the CUDA kernel makes it, on the host, against the contract."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covis.export.ops.cuda.saliency import SaliencyParams
from covis.export.ops.cuda.select import SelectParams
from covis.export.selection.saliency import pair_levels
from tests.plugins.cuda_host import HostSelect, library
from tests.vectors.case import Array
from tests.vectors.standard import standard_select_cases
from tests.vectors.suite import check_select


def test_standard_cases() -> None:
    adapter = HostSelect()
    for case in standard_select_cases():
        check_select(adapter, case)


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
    neighbours=st.integers(0, 14),
    reference=st.integers(-1, 11),
    tau=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    tau_low=st.sampled_from([0.0, 0.25, 0.75]),
    seed=st.integers(0, 1000),
)
def test_pair_levels_are_the_rule(
    views: int, neighbours: int, reference: int, tau: float, tau_low: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    similarity = (rng.integers(-4, 5, (views, views)) / 4).astype(np.float32)
    level: Array = np.zeros((views, views), np.int8)
    library().covis_host_pair_levels(
        ctypes.c_void_p(similarity.ctypes.data),
        views,
        ctypes.c_float(tau),
        ctypes.c_float(tau_low),
        ctypes.c_int64(neighbours),
        ctypes.c_int64(reference),
        ctypes.c_void_p(level.ctypes.data),
    )
    expected = pair_levels(
        torch.from_numpy(similarity),
        torch.tensor(tau),
        torch.tensor(tau_low),
        torch.tensor(neighbours),
        torch.tensor(reference),
    )
    assert np.array_equal(level, expected[0, 0].numpy())


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


def test_saliency_names_what_is_bad() -> None:
    for field, value, words in (
        ("data_type", 7, "data_type is 7"),
        ("views", 0, "views is 0"),
        ("channels", 1 << 20, "channels is 1048576"),
        ("tau", None, "tau is a null pointer"),
        ("reference", 4100, "reference is not aligned to 8 bytes"),
        ("workspace_bytes", 1, "workspace has 1 bytes"),
    ):
        params = SaliencyParams(struct_size=ctypes.sizeof(SaliencyParams))
        params.views, params.patches, params.channels = 100, 1369, 1024
        for name in ("tokens", "tau", "tau_low", "min_neighbours", "reference", "similarity"):
            setattr(params, name, 4096)
        params.level = params.workspace = 4096
        params.workspace_bytes = 1 << 30
        assert refusal("covis_host_saliency_launch_plan", params) == (0, "")
        setattr(params, field, value)
        status, message = refusal("covis_host_saliency_launch_plan", params)
        assert status != 0
        assert words in message
