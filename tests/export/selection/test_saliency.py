"""The saliency stage against its definition, written out in numpy."""

from __future__ import annotations

from functools import cache
from typing import get_args

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from covis.engines.system.native import ORT_LIBRARY, find_library
from covis.export.ops import TokenLayout, block_sparse_attention, dense_level
from covis.export.ops.translate import attach_functions
from covis.export.selection.pair_rules import PairRules
from covis.export.selection.saliency import Saliency, saliency_stage
from covis.export.selection.similarity import Pooling, cell_pooling
from covis.export.trace import export_graph
from tests.export.onnx_chain import kernel_or_function
from tests.vectors import pair_oracle

ROWS, COLUMNS, CHANNELS = 3, 5, 8


def tokens(views: int, seed: int = 0) -> NDArray[np.float64]:
    """Return views that share different amounts: random tokens over a common part."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(ROWS * COLUMNS, CHANNELS))
    share = rng.uniform(0, 1, size=(views, 1, 1))
    return share * common + (1 - share) * rng.normal(size=(views, ROWS * COLUMNS, CHANNELS))


def unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


NUMBERS = {
    "tau": np.array([0.7, 0.0, 2.0, 2.0], np.float32),
    "tau_low": np.array([0.4, 0.0, 2.0, 2.0], np.float32),
    "anchors": np.array([0, 0, 0, 2]),
    "min_neighbours": np.array([1, 0, 0, 1]),
    "own_frame": np.array([True, True, True, False]),
    "reference": np.array(0),
    "to_reference": np.array([True, False, False, False]),
    "from_reference": np.array([True, False, False, False]),
}
"""Maps of saliency, of a dense layer, of the own frame alone, and of two anchors."""


def run(
    x: NDArray[np.float64], pooling: Pooling = "descriptor"
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]:
    """Return similarity (M, M), rank of the anchors (M,) and levels (R, M, M)."""
    rules = [torch.from_numpy(NUMBERS[name]) for name in PairRules._fields]
    inputs = torch.from_numpy(x.astype(np.float32)), torch.full((len(x),), -1)
    with torch.inference_mode():
        similarity, rank, level = Saliency(ROWS, COLUMNS, pooling)(*inputs, *rules)
    assert rank.dtype == level.dtype == torch.int32
    assert rank.shape == (len(x),) and level.shape == (4, len(x), len(x))
    return similarity.numpy(), rank.numpy(), level.numpy()


def test_descriptor_is_the_cosine_of_mean_unit_tokens() -> None:
    x = tokens(6)
    similarity, *_ = run(x)
    views = unit(unit(x).mean(axis=1))
    np.testing.assert_allclose(similarity, views @ views.T, atol=1e-6)


def test_one_huge_token_does_not_decide() -> None:
    x = tokens(4)
    before, *_ = run(x)
    x[2, 0] *= 1e4
    after, *_ = run(x)
    np.testing.assert_allclose(before, after, atol=1e-5)


def test_best_match_finds_what_moved_in_the_picture() -> None:
    x = tokens(3)
    x[1] = np.roll(x[0], 4, axis=0)  # the same tokens elsewhere; 3 x 5 patches are 3 x 5 cells
    similarity, *_ = run(x, "best-match")
    cells = unit(x)
    expected = np.array([[(a @ b.T).max(axis=1).mean() for b in cells] for a in cells])
    np.testing.assert_allclose(similarity, expected, atol=1e-6)
    assert similarity[0, 1] == pytest.approx(1.0, abs=1e-6)


def test_cells_average_every_patch_once() -> None:
    pool = cell_pooling(28, 37).numpy()
    assert pool.shape == (64, 28 * 37)
    np.testing.assert_allclose(pool.sum(axis=1), 1.0, rtol=1e-5)
    assert ((pool > 0).sum(axis=0) == 1).all()


def test_levels_are_those_of_the_rules() -> None:
    x = tokens(7)
    x[1] = -x[0]
    similarity, rank, level = run(x)
    assert similarity[0, 1] < -0.9
    assert sorted(rank) == [0, 1, 7, 7, 7, 7, 7]
    np.testing.assert_array_equal(level, pair_oracle.pair_levels(similarity, rank, NUMBERS))
    assert (level[1] == 2).all(), "tau = 0 keeps even the pairs of opposite views"
    np.testing.assert_array_equal(level[2], 2 * np.eye(7))
    assert (level[3][:, rank < 7] == 2).all()


@kernel_or_function
@pytest.mark.parametrize("pooling", get_args(Pooling))
@pytest.mark.parametrize("views", [1, 2, 6])
def test_the_graph_computes_the_same(pooling: Pooling, views: int, kernel: bool) -> None:
    options = onnxruntime.SessionOptions()
    if kernel:
        options.register_custom_ops_library(str(find_library(ORT_LIBRARY)))
    session = onnxruntime.InferenceSession(exported(pooling), options)
    x = tokens(views)
    given = {"patch_tokens": x.astype(np.float32), "anchor_order": np.full(views, -1)}
    names = ["similarity", "anchor_rank", "pair_levels"]
    similarity, rank, level = session.run(names, given | NUMBERS)
    expected = run(x, pooling)
    np.testing.assert_allclose(similarity, expected[0], atol=1e-6)
    near = np.isclose(similarity, 0.7, atol=1e-5) | np.isclose(similarity, 0.4, atol=1e-5)
    assert ((level == expected[2]) | near).all()
    np.testing.assert_array_equal(rank, expected[1])


@cache
def exported(pooling: Pooling) -> bytes:
    graph = export_graph(saliency_stage(ROWS, COLUMNS, CHANNELS, pooling))
    attach_functions(graph)
    return bytes(ir.to_proto(graph).SerializeToString())


def test_all_pairs_kept_is_dense_attention() -> None:
    """Regions end inside any tile; special tokens are first, a trailing token is last."""
    torch.manual_seed(0)
    views, patches, special = 5, 13, 3
    layout = TokenLayout(special + patches, special_first=special, trailing_tokens=1)
    q, k, v = torch.randn(3, 1, 2, views * (special + patches) + 1, 16)
    _, _, level = run(tokens(views))
    sparse = block_sparse_attention(
        q,
        k,
        v,
        torch.from_numpy(level[1]).to(torch.int8)[None, None],
        layout=layout,
        q_block=patches,
        k_block=patches,
    )
    torch.testing.assert_close(sparse, block_sparse_attention(q, k, v, dense_level()))
