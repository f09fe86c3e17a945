"""The saliency stage against its definition, written out in numpy."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from covis.export.ops import TokenLayout, block_sparse_attention, dense_level
from covis.export.selection.saliency import Saliency, cell_pooling, pair_levels, saliency_stage
from covis.export.trace import export_graph

ROWS, COLUMNS, CHANNELS = 3, 5, 8


def tokens(views: int, seed: int = 0) -> NDArray[np.float64]:
    """Return views that share different amounts: random tokens over a common part."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(ROWS * COLUMNS, CHANNELS))
    share = rng.uniform(0, 1, size=(views, 1, 1))
    return share * common + (1 - share) * rng.normal(size=(views, ROWS * COLUMNS, CHANNELS))


def unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def run(
    x: NDArray[np.float64],
    tau: float = 0.5,
    tau_low: float | None = None,
    neighbours: int = 0,
    reference: int = -1,
    pooling: str = "descriptor",
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    module = Saliency(ROWS, COLUMNS, pooling)  # type: ignore[arg-type]
    similarity, level = module(
        torch.from_numpy(x.astype(np.float32)),
        torch.tensor(tau),
        torch.tensor(tau if tau_low is None else tau_low),
        torch.tensor(neighbours),
        torch.tensor(reference),
    )
    assert level.shape == (1, 1, len(x), len(x))
    assert level.dtype == torch.int32
    return similarity.numpy(), level[0, 0].numpy()


def test_descriptor_is_the_cosine_of_mean_unit_tokens() -> None:
    x = tokens(6)
    similarity, _ = run(x)
    views = unit(unit(x).mean(axis=1))
    np.testing.assert_allclose(similarity, views @ views.T, atol=1e-6)


def test_one_huge_token_does_not_decide() -> None:
    x = tokens(4)
    before, _ = run(x)
    x[2, 0] *= 1e4
    after, _ = run(x)
    np.testing.assert_allclose(before, after, atol=1e-5)


def test_best_match_finds_what_moved_in_the_picture() -> None:
    x = tokens(3)
    x[1] = np.roll(x[0], 4, axis=0)  # the same tokens elsewhere; 3 x 5 patches are 3 x 5 cells
    similarity, _ = run(x, pooling="best-match")
    cells = unit(x)
    expected = np.array([[(a @ b.T).max(axis=1).mean() for b in cells] for a in cells])
    np.testing.assert_allclose(similarity, expected, atol=1e-6)
    assert similarity[0, 1] == pytest.approx(1.0, abs=1e-6)


def test_cells_average_every_patch_once() -> None:
    pool = cell_pooling(28, 37).numpy()
    assert pool.shape == (64, 28 * 37)
    np.testing.assert_allclose(pool.sum(axis=1), 1.0, rtol=1e-5)
    assert ((pool > 0).sum(axis=0) == 1).all()


@settings(max_examples=60, deadline=None)
@given(
    views=st.integers(1, 9),
    tau=st.floats(0, 1, width=32),
    low=st.floats(0, 1, width=32),
    neighbours=st.integers(0, 12),
    reference=st.integers(-1, 8),
    seed=st.integers(0, 99),
)
def test_levels_follow_their_definition(
    views: int, tau: float, low: float, neighbours: int, reference: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    similarity = rng.uniform(-1, 1, size=(views, views)).astype(np.float32)
    low = min(low, tau)
    level = pair_levels(
        torch.from_numpy(similarity),
        torch.tensor(tau),
        torch.tensor(low),
        torch.tensor(neighbours),
        torch.tensor(reference),
    )[0, 0].numpy()
    for i in range(views):
        others = sorted((similarity[i, j] for j in range(views) if j != i), reverse=True)
        nearest = others[min(neighbours, len(others)) - 1] if neighbours and others else np.inf
        for j in range(views):
            found = max(similarity[i, j], 0)
            expected = 2 if found >= np.float32(tau) else 1 if found >= np.float32(low) else 0
            if i == j or reference in (i, j) or similarity[i, j] >= nearest:
                expected = 2
            assert level[i, j] == expected, (i, j)


def test_tau_0_keeps_every_pair_even_of_opposite_views() -> None:
    x = tokens(3)
    x[1] = -x[0]
    similarity, level = run(x, tau=0.0)
    assert similarity[0, 1] < -0.9
    assert (level == 2).all()


def test_no_view_is_cut_off_by_min_neighbours() -> None:
    _, alone = run(tokens(7), tau=1.0)
    assert (alone == 2 * np.eye(7)).all()
    _, level = run(tokens(7), tau=1.0, neighbours=2)
    assert ((level == 2).sum(axis=1) == 3).all()


@pytest.mark.parametrize("pooling", ["descriptor", "best-match"])
@pytest.mark.parametrize("views", [1, 2, 6])
def test_the_graph_computes_the_same(pooling: str, views: int, tmp_path: object) -> None:
    stage = saliency_stage(ROWS, COLUMNS, CHANNELS, pooling)  # type: ignore[arg-type]
    session = onnxruntime.InferenceSession(_exported(pooling, stage))
    x = tokens(views)
    feeds = {
        "patch_tokens": x.astype(np.float32),
        "tau": np.float32(0.7),
        "tau_low": np.float32(0.4),
        "min_neighbours": np.int64(1),
        "reference": np.int64(0),
    }
    got = session.run(["similarity", "pair_level"], {k: np.asarray(v) for k, v in feeds.items()})
    similarity, level = run(x, 0.7, 0.4, 1, 0, pooling)
    np.testing.assert_allclose(got[0], similarity, atol=1e-6)
    near = np.isclose(similarity, 0.7, atol=1e-5) | np.isclose(similarity, 0.4, atol=1e-5)
    assert ((got[1][0, 0] == level) | near).all()


_graphs: dict[str, bytes] = {}


def _exported(pooling: str, stage: object) -> bytes:
    import onnx_ir as ir

    if pooling not in _graphs:
        _graphs[pooling] = ir.to_proto(export_graph(stage)).SerializeToString()  # type: ignore[arg-type]
    return _graphs[pooling]


def test_all_pairs_kept_is_dense_attention() -> None:
    """Regions end inside any tile; special tokens are first, a trailing token is last."""
    torch.manual_seed(0)
    views, patches, special = 5, 13, 3
    layout = TokenLayout(special + patches, special_first=special, trailing_tokens=1)
    q, k, v = torch.randn(3, 1, 2, views * (special + patches) + 1, 16)
    _, level = run(tokens(views), tau=0.0)
    sparse = block_sparse_attention(
        q,
        k,
        v,
        torch.from_numpy(level).to(torch.int8)[None, None],
        layout=layout,
        q_block=patches,
        k_block=patches,
    )
    torch.testing.assert_close(sparse, block_sparse_attention(q, k, v, dense_level()))
