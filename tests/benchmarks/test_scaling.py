"""Costs of runs on several GPUs: counts by hand, and the exchange that they count, carried out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.scaling import Gpu, Shape, parts_cost, run_cost, table
from covis.export.ops import TokenLayout, block_sparse_attention

SMALL = Shape(
    channels=8, heads=2, layers=8, encoder_layers=1, patches=4, special=1, parameters=100, taps=2
)
RATES = Gpu(flops=1.0, efficiency=1.0, near=1.0, far=0.5, node=4)


def test_dense_counts_by_hand() -> None:
    """Two GPUs with three views each, of 5 tokens of 8 channels; 8 global and 8 frame layers."""
    cost = run_cost(6, 2, "dense", shape=SMALL, gpu=RATES)
    linear, pair, own = 24 * 64, 32, 3 * 5
    inside = own * (linear + pair * 5) * 9
    assert cost.compute == inside + 8 * own * (linear + pair * 30)
    assert cost.traffic == cost.exchange == 8 * own * 32
    assert cost.memory == 200 + own * 80 + 3 * 2 * 4 * 8 * 4 + 2 * 0 + own * 32
    far = run_cost(40, 8, "dense", shape=SMALL, gpu=RATES)
    assert far.exchange == 2 * far.traffic


def test_anchors_cost_less_and_local_views_are_not_sent() -> None:
    dense, anchors, anywhere = (
        run_cost(1000, 8, selector, local=local, shape=Shape(), gpu=Gpu())
        for selector, local in (("dense", True), ("anchors", True), ("anchors", False))
    )
    assert anchors.compute == anywhere.compute < dense.compute / 10
    assert anchors.traffic < anywhere.traffic / 10 < dense.traffic / 10
    alone = run_cost(1000, 1, "anchors", shape=Shape(), gpu=Gpu())
    assert alone.traffic == alone.exchange == 0


def test_parts_need_no_exchange_and_a_rest_takes_a_whole_round() -> None:
    three = parts_cost(400, 1, 150, "dense", shape=SMALL, gpu=RATES)
    two = parts_cost(400, 2, 150, "dense", shape=SMALL, gpu=RATES)
    assert three.compute / two.compute == pytest.approx(3 / 2)
    assert two.traffic == 0 and two.memory == three.memory


def test_a_row_for_each_way() -> None:
    lines = table(1000, [1, 8])
    assert len(lines) == 2 + 3 + 4
    assert all(line.count("|") == 7 for line in lines)


def test_what_is_exchanged_is_enough() -> None:
    """Three shares of four views: anchors' keys, special keys, special queries; nothing else."""
    views, special, patches, heads, dim, anchors = 12, 2, 4, 2, 8, [0, 5]
    frame = special + patches
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, heads, views * frame, dim, generator=generator, dtype=torch.float64)
        for _ in range(3)
    )
    level = 2 * torch.eye(views, dtype=torch.int8)
    level[:, anchors] = 2
    layout = TokenLayout(frame_tokens=frame, special_first=special)
    whole = block_sparse_attention(
        q.float(), k.float(), v.float(), level[None, None], layout=layout,
        q_block=patches, k_block=patches,
    )  # fmt: skip

    by_view = [x[0].unflatten(1, (views, frame)) for x in (q, k, v)]
    queries, keys, values = by_view
    out = torch.empty_like(queries)
    answers = []
    for share in range(0, views, 4):
        own = list(range(share, share + 4))
        for view in own:
            seen = sorted({view, *anchors})
            sent = [
                torch.cat([x[:, :, :special].flatten(1, 2), x[:, seen, special:].flatten(1, 2)], 1)
                for x in (keys, values)
            ]
            out[:, view, special:] = _partial(queries[:, view, special:], *sent)[2]
        mine = (x[:, own].flatten(1, 2) for x in (keys, values))
        answers.append(_partial(queries[:, :, :special].flatten(1, 2), *mine))
    top = torch.stack([most for _, most, _ in answers]).amax(0)
    weights = [total * (most - top).exp() for total, most, _ in answers]
    merged = sum(w * mean for w, (_, _, mean) in zip(weights, answers, strict=True)) / sum(weights)
    out[:, :, :special] = merged.unflatten(1, (views, special))
    torch.testing.assert_close(out.flatten(1, 2)[None].float(), whole, atol=1e-5, rtol=1e-5)


def _partial(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return sum and maximum of the softmax (H, n, 1), and its mean of the values (H, n, D)."""
    scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
    most = scores.amax(-1, keepdim=True)
    weights = (scores - most).exp()
    total = weights.sum(-1, keepdim=True)
    return total, most, weights @ v / total
