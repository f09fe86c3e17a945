"""Mean fill against its definition, and the experiment's maps, heads and tables."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from covis.export.ops import TokenLayout, block_sparse_attention

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def attention(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`mean_fill_attention`, imported as Python does when the benchmark is run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "mean_fill_attention", raising=False)
    import mean_fill_attention  # type: ignore[import-not-found]

    return mean_fill_attention  # type: ignore[no-any-return]


def definition(
    q: Tensor, k: Tensor, v: Tensor, level: Tensor, layout: TokenLayout, q_block: int,
    k_block: int, fill_block: int,
) -> Tensor:  # fmt: skip
    """Mean fill by its definition: token by token, an explicit softmax, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    batch, heads, tokens, width = q.shape
    patch = layout.split(tokens, q.device)[0].tolist()
    number = {token: p for p, token in enumerate(patch)}
    out = torch.empty_like(q)
    for b in range(batch):
        for h in range(heads):
            table = level[min(b, level.shape[0] - 1), min(h, level.shape[1] - 1)]
            for i in range(tokens):
                keys, values, biases = [], [], []
                skipped: dict[tuple[int, int], list[int]] = {}
                for j in range(tokens):
                    pair = 2
                    if i in number and j in number:
                        row = number[i] // q_block if table.shape[0] > 1 else 0
                        column = number[j] // k_block if table.shape[1] > 1 else 0
                        pair = int(table[row, column])
                    if pair:
                        keys.append(k[b, h, j])
                        values.append(v[b, h, j])
                        biases.append(0.0)
                    else:
                        region = number[j] // k_block, number[j] % k_block // fill_block
                        skipped.setdefault(region, []).append(j)
                for members in skipped.values():
                    keys.append(k[b, h, members].mean(dim=0))
                    values.append(v[b, h, members].mean(dim=0))
                    biases.append(math.log(len(members)))
                scores = torch.stack(keys) @ q[b, h, i] / math.sqrt(width)
                weights = torch.softmax(scores + torch.tensor(biases, dtype=q.dtype), dim=0)
                out[b, h, i] = weights @ torch.stack(values)
    return out


# layout, frames, q_block, k_block, fill_block, shape of the map
CASES = [
    (TokenLayout(8, 2), 4, 6, 6, 6, (1, 1, 4, 4)),  # a row a frame
    (TokenLayout(8, 2), 4, 6, 6, 4, (1, 2, 4, 4)),  # pieces of 4 and 2 tokens in each frame
    (TokenLayout(9, 1, 1, 3), 3, 8, 4, 4, (2, 2, 3, 6)),  # regions across frames, a short last one
    (TokenLayout(5), 3, 4, 7, 3, (2, 1, 4, 3)),  # no special token; pieces of 3, 3 and 1
    (TokenLayout(5, 1), 3, 12, 4, 99, (1, 1, 1, 3)),  # one row for all queries; fill cannot span
    (TokenLayout(5, 1), 3, 4, 12, 4, (1, 1, 3, 1)),  # one column for all keys
]


@pytest.mark.parametrize("case", CASES)
def test_against_the_definition(attention: ModuleType, case: tuple[object, ...]) -> None:
    layout, frames, q_block, k_block, fill_block, shape = case
    assert isinstance(layout, TokenLayout) and isinstance(frames, int)
    generator = torch.Generator().manual_seed(3)
    tokens = frames * layout.frame_tokens + layout.trailing_tokens
    q, k, v = torch.randn(3, 2, 2, tokens, 8, generator=generator, dtype=torch.float64)
    level = torch.randint(0, 3, shape, generator=generator, dtype=torch.int8)  # type: ignore[call-overload]
    level[..., 0, 0] = 0  # at least one region is skipped
    blocks = {"q_block": q_block, "k_block": k_block, "fill_block": fill_block}
    expected = definition(q, k, v, level, layout, **blocks)  # type: ignore[arg-type]
    found = attention.mean_filled_attention(q, k, v, level, layout=layout, **blocks)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    single = attention.mean_filled_attention(
        q.float(), k.float(), v.float(), level, layout=layout, **blocks
    )
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=2e-6)


def test_a_map_without_level_0_is_plain_sparse_attention(attention: ModuleType) -> None:
    layout = TokenLayout(7, 1)
    q, k, v = torch.randn(3, 1, 2, 21, 8, generator=torch.Generator().manual_seed(0))
    level = torch.tensor([[[[2, 1, 2], [1, 1, 1], [2, 2, 2]]]], dtype=torch.int8)
    blocks = {"layout": layout, "q_block": 6, "k_block": 6}
    filled = attention.mean_filled_attention(q, k, v, level, fill_block=3, **blocks)
    plain = block_sparse_attention(q, k, v, level, **blocks)  # type: ignore[arg-type]
    torch.testing.assert_close(filled, plain)


def test_regions_of_equal_keys_lose_nothing(attention: ModuleType) -> None:
    """If the keys of every region are equal, its row is exact, whatever its values are."""
    layout = TokenLayout(6, 2)
    generator = torch.Generator().manual_seed(1)
    q, k, v = torch.randn(3, 1, 2, 24, 8, generator=generator, dtype=torch.float64)
    patch, _ = layout.split(24, q.device)
    k[:, :, patch] = k[:, :, patch[::4]].repeat_interleave(4, dim=2)  # by frame
    level = 2 * torch.eye(4, dtype=torch.int8)[None, None]
    blocks = {"layout": layout, "q_block": 4, "k_block": 4}
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    filled = attention.mean_filled_attention(q, k, v, level, fill_block=4, **blocks)
    torch.testing.assert_close(filled, dense, rtol=1e-12, atol=1e-12)
    skipping = block_sparse_attention(q, k, v, level, **blocks)  # type: ignore[arg-type]
    assert (skipping - dense).abs().max() > 0.1
