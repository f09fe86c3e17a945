"""Mean fill against its definition, and the experiment's maps, heads and tables."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from covis.commands.demo import demo_bundle
from covis.export.ops import TokenLayout, block_sparse_attention

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def attention(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`mean_fill_attention`, imported as Python does when the benchmark is run."""
    return imported("mean_fill_attention", monkeypatch)


def imported(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a module of the folder, and its neighbours, for one test."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for each in FOLDER.glob("mean_fill*.py"):
        monkeypatch.delitem(sys.modules, each.stem, raising=False)
    return importlib.import_module(name)


def definition(
    q: Tensor, k: Tensor, v: Tensor, level: Tensor, layout: TokenLayout, q_block: int,
    k_block: int, fill_block: int, exact_mass: bool,
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
                    if exact_mass:
                        scores = k[b, h, members] @ q[b, h, i] / math.sqrt(width)
                        at_mean = float(keys[-1] @ q[b, h, i]) / math.sqrt(width)
                        biases[-1] = math.log(float(scores.exp().sum())) - at_mean
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


@pytest.mark.parametrize("exact_mass", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_against_the_definition(
    attention: ModuleType, case: tuple[object, ...], exact_mass: bool
) -> None:
    layout, frames, q_block, k_block, fill_block, shape = case
    assert isinstance(layout, TokenLayout) and isinstance(frames, int)
    generator = torch.Generator().manual_seed(3)
    tokens = frames * layout.frame_tokens + layout.trailing_tokens
    q, k, v = torch.randn(3, 2, 2, tokens, 8, generator=generator, dtype=torch.float64)
    level = torch.randint(0, 3, shape, generator=generator, dtype=torch.int8)  # type: ignore[call-overload]
    level[..., 0, 0] = 0  # at least one region is skipped
    blocks = {"q_block": q_block, "k_block": k_block, "fill_block": fill_block}
    blocks["exact_mass"] = exact_mass
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


def test_k_center_takes_the_farthest_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of views on a line, at places whose distances a reader can check."""
    script = imported("mean_fill_cases", monkeypatch)
    places = np.array([0.0, 1.0, 10.0, 4.0, 6.0])
    similarity = 1 - np.abs(np.subtract.outer(places, places))
    # 10 is farthest from 0; then 4 and 6 are both 4 from a chosen view: the lower index.
    assert script.k_center(similarity, 3) == [0, 2, 3]
    assert script.k_center(similarity, 9) == [0, 2, 3, 4, 1]


@pytest.mark.parametrize("patches", [64, 100])
def test_cases_have_equal_pairs_and_equal_cost(
    monkeypatch: pytest.MonkeyPatch, patches: int
) -> None:
    script = imported("mean_fill_cases", monkeypatch)
    score = np.random.default_rng(5).random((16, 16))
    every = list(script.cases((score + score.T) / 2, patches, (3, 6), (0.25,)))
    assert len({case.name for case in every}) == len(every)
    found = {case.name: case for case in every}
    for budget in (3, 6):
        skip = [found[f"{s} {budget}, skip"].pairs for s in ("anchors", "saliency", "random")]
        assert len({int(pairs.sum()) for pairs in skip}) == 1
        assert all(
            pairs[0].all() and pairs[:, 0].all() and pairs.diagonal().all() for pairs in skip
        )
        assert (skip[0].all(axis=0)).sum() == budget
        assert (skip[1] != skip[2]).any()
        for selector, pairs in zip(("anchors", "saliency", "random"), skip, strict=True):
            filled = found[f"{selector} {budget}, fill 64"]
            dearer = found[f"{selector} {budget}, equal cost"]
            assert (filled.pairs == pairs).all() and (dearer.pairs | pairs == dearer.pairs).all()
            # Rows by definition: a piece of at most 64 tokens of each skipped frame.
            rows = sum(len(range(0, patches, 64)) for _ in np.argwhere(~pairs))
            cost = (pairs.sum() * patches + rows) / (pairs.size * patches)
            assert filled.cost(patches) == pytest.approx(cost)
            assert 0 <= dearer.cost(patches) - filled.cost(patches) < 1 / pairs.size
    blocks = -(-16 * patches // 64)
    kept = {v: found[f"pooled 0.25, {v}"] for v in ("skip", "fill 64", "equal cost")}
    assert kept["skip"].cost(patches) == blocks // 4 / blocks
    rows = (blocks - blocks // 4) / 64  # in blocks
    assert kept["fill 64"].cost(patches) == pytest.approx((blocks // 4 + rows) / blocks)
    assert 0 <= kept["equal cost"].cost(patches) - kept["fill 64"].cost(patches) < 1 / blocks
    # BlockSelect takes exactly these shares.
    q, k = torch.randn(2, 1, 1, 16 * patches, 8, generator=torch.Generator().manual_seed(0))
    for case in kept.values():
        level = case.block_map(q, k, TokenLayout(patches)).level
        assert float((level > 0).double().mean()) == pytest.approx(case.keep_ratio)


KINDS = ["uniform 0.94", "correspondence 0.7", "first frame", "own frame", "vertical lines"]


@pytest.mark.parametrize("kind", KINDS)
def test_heads_have_the_statistics_of_their_kind(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    script = imported("mean_fill_heads", monkeypatch)
    ring = script.Ring(16, 8, torch.Generator().manual_seed(2))
    shares = script.Shares(0.4, 0.2, 0.0, 0.4)
    q, k, _ = script.head(kind, ring, shares, shares)
    weights = torch.softmax((q[0, 0] @ k[0, 0].T).double() / 8, dim=-1)
    frame = torch.arange(len(weights)) // 69
    patch = torch.arange(len(weights)) % 69 >= 5
    same = (frame[:, None] == frame) & patch
    if kind.startswith(("uniform", "correspondence")):
        assert script.normalised_entropy(weights) == pytest.approx(float(kind[-4:]), abs=0.02)
    if kind == "correspondence 0.7":  # the same point in views that overlap, many times the others
        points = torch.full((16, 69), -1)
        points[:, 5:] = ring.points()
        equal = (points.flatten()[:, None] == points.flatten()) & patch
        equal &= patch[:, None]
        assert int(equal.sum(dim=1).max()) == 4
        assert weights[equal].mean() > 20 * weights[~equal].mean()
    if kind == "first frame":
        assert float(weights[:, (frame == 0) & patch].sum(dim=1).mean()) == pytest.approx(
            0.9, abs=0.03
        )
    if kind == "own frame":
        assert float((weights * same).sum(dim=1).mean()) == pytest.approx(0.9, abs=0.03)
    if kind == "vertical lines":
        column = weights.mean(dim=0).sort(descending=True).values
        assert float(column[: len(column) // 50].sum()) > 0.85  # 1 % of the tokens


def test_shares_measured_are_those_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    script = imported("mean_fill_heads", monkeypatch)
    ring = script.Ring(32, 24, torch.Generator().manual_seed(4), width=512)
    shares = script.Shares(0.1, 0.3, 0.2, 0.4)
    by_point = ring.normal(int(ring.points().max()) + 1)
    x = torch.cat([ring.normal(32, 5), ring.patches(shares, by_point)], dim=1)
    found = script.Shares.of(x.flatten(0, 1)[None, None], ring.layout)
    for part, share in vars(shares).items():
        assert getattr(found, part) == pytest.approx(share, abs=0.03), part


def test_pieces_are_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    order = imported("mean_fill_heads", monkeypatch).tile_order(24)
    assert sorted(order.tolist()) == list(range(576))
    for piece in order.view(9, 64):
        rows, columns = piece // 24, piece % 24
        assert int(rows.max() - rows.min()) == int(columns.max() - columns.min()) == 7


def test_the_dense_run_is_the_model_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    script = imported("mean_fill_model", monkeypatch)
    mini = script.CovisMini(demo_bundle())
    images = torch.rand(3, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        extrinsics, depth = mini.run(images, mini.model.encode(images)[0], script.dense)
        weights = demo_bundle() / "model.safetensors"
        own = script.load_model("vggt", vars(mini.model.config), weights)(images[None])
    np.testing.assert_allclose(extrinsics, own["extrinsic"][0].numpy(), atol=1e-4)
    np.testing.assert_allclose(depth, own["depth"][0, ..., 0].numpy(), rtol=1e-4)


def test_a_small_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All three parts: errors are 0 where nothing is skipped, and fill changes the rest."""
    script = imported("mean_fill", monkeypatch)
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(photos / f"{i}.png")
    monkeypatch.setattr(script, "PHOTO_SIDE", 112)
    common = ["--bundle", str(demo_bundle()), "--out", str(tmp_path / "out.json")]
    small = ["--kinds", "studio/orbit", "--scenes", "1", "--views", "4", "--anchors", "2"]
    threads = torch.get_num_threads()
    script.main(["scenes", *small, *common, "--ratios"])
    script.main(["scenes", *small[:-1], *common, "--ratios", "0.5"])  # added to the same table
    script.main(["photos", str(photos), "--anchors", "3", *common])
    small = ["--kinds", "uniform 0.94", "--views", "8", "--grid", "8"]
    script.main(["heads", *small, *common])
    torch.set_num_threads(threads)
    record = json.loads((tmp_path / "out.json").read_text())
    everything = record["photos"]["photos"]["cases"]["anchors 3, fill 64"]  # of three views
    assert everything["cost"] == 1 and np.max(everything["errors"]) < 1e-5
    rows = record["scenes"]["covis-mini, 1 scenes of 4 views"]
    assert rows["dense"]["rotation_drift"] == 0
    assert rows["pooled 0.5, skip"]["cost"] == 0.5
    skipped, filled = (rows[f"anchors 2, {variant}"] for variant in ("skip", "fill 64"))
    assert len(skipped["layers"]) == 8 and min(skipped["layers"]) > 0.01
    assert skipped["layers"] != filled["layers"] and skipped["cost"] < filled["cost"]
    assert skipped["rotation_drift"] != filled["rotation_drift"]
    assert np.shape(record["photos"]["photos"]["cases"]["pooled 0.1, fill 64"]["errors"]) == (8, 2)
    head = record["heads"]["uniform 0.94"]
    assert head["tokens"] == 8 * 69
    assert (
        head["cases"]["anchors 3, fill 64"]["errors"] < head["cases"]["anchors 3, skip"]["errors"]
    )
    text = script.markdown(record)
    assert "| anchors 2, fill 64 |" in text and "| uniform 0.94 | 0.9" in text
