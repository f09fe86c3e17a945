"""Attention by kind of token and by block, against a softmax written out in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from covis.export import attention_analysis
from covis.export.attention_analysis import SHARES, analyse, mean_over_scenes, measure
from covis.export.models import build_model
from covis.export.ops import TokenLayout
from tests.tiny_vggt import CONFIG


def oracle(q: Any, k: Any, layout: TokenLayout, q_block: int, k_block: int) -> dict[str, Any]:
    """Compute the same statistics with loops and the whole matrix."""
    heads, tokens, width = q.shape[1:]
    kinds: list[list[int]] = [[], []]
    for index in range(tokens):
        place = index % layout.frame_tokens
        special = (
            index >= tokens - layout.trailing_tokens
            or place < layout.special_first
            or place >= layout.frame_tokens - layout.special_last
        )
        kinds[0 if special else 1].append(index)
    patch = kinds[1]
    parts: dict[str, list[float]] = {}
    top = np.zeros(len(SHARES))
    row_mass = 0.0
    for head in range(heads):
        scores = q[0, head] @ k[0, head].T / np.sqrt(width)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        for a, one in enumerate(("special", "patch")):
            for b, other in enumerate(("special", "patch")):
                block = weights[np.ix_(kinds[a], kinds[b])]
                parts.setdefault(f"{one}_{other}", []).extend(block.ravel().tolist())
        inner = weights[np.ix_(patch, patch)]
        row_mass += float(inner.sum()) / len(patch) / heads
        masses = []
        for r in range(0, len(patch), q_block):
            for c in range(0, len(patch), k_block):
                masses.append(inner[r : r + q_block, c : c + k_block].sum())
        ordered = np.sort(masses)[::-1]
        for n, percent in enumerate(SHARES):
            best = max(1, round(len(ordered) * percent / 100))
            top[n] += ordered[:best].sum() / ordered.sum() / heads
    return {
        "attention": {name: (np.mean(v), np.max(v)) for name, v in parts.items() if v},
        "row_mass": row_mass,
        "top": top,
    }


@pytest.mark.parametrize(
    ("layout", "frames"),
    [
        (TokenLayout(frame_tokens=11, special_first=2), 5),
        (TokenLayout(frame_tokens=9, special_first=1, special_last=2, trailing_tokens=1), 4),
        (TokenLayout(frame_tokens=7), 3),
    ],
)
def test_statistics(layout: TokenLayout, frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_analysis, "_ROWS", 8)  # several pieces, the last one short
    tokens = frames * layout.frame_tokens + layout.trailing_tokens
    rng = np.random.default_rng(0)
    q, k = (3 * rng.normal(size=(1, 3, tokens, 16)) for _ in range(2))
    found = measure(torch.tensor(q), torch.tensor(k), layout, q_block=6, k_block=4)
    expected = oracle(q, k, layout, 6, 4)
    for pair, (mean, largest) in expected["attention"].items():
        assert found["attention"][pair]["mean"] == pytest.approx(mean, rel=1e-9)
        assert found["attention"][pair]["max"] == pytest.approx(largest, rel=1e-9)
    if not layout.special_first + layout.special_last + layout.trailing_tokens:
        assert found["attention"]["special_patch"]["mean"] is None
    assert found["row_mass"] == pytest.approx(expected["row_mass"], rel=1e-9)
    shares = [found["top_blocks"][str(percent)] for percent in SHARES]
    np.testing.assert_allclose(shares, expected["top"], rtol=1e-9)


def test_a_whole_model_and_the_mean_of_scenes() -> None:
    torch.manual_seed(0)
    model = build_model("vggt", CONFIG).requires_grad_(False).eval()
    scenes = [analyse(model, torch.rand(3, 3, 56, 84)) for _ in range(2)]
    assert [layer["layer"] for layer in scenes[0]] == list(range(CONFIG["depth"]))
    for layer in scenes[0]:
        kinds = layer["attention"]
        # 3 views of 5 special and 24 patch tokens: a row's weights sum to 1.
        for one in ("special", "patch"):
            row = 15 * kinds[f"{one}_special"]["mean"] + 72 * kinds[f"{one}_patch"]["mean"]
            assert row == pytest.approx(1.0, rel=1e-6)
        assert layer["row_mass"] == pytest.approx(72 * kinds["patch_patch"]["mean"], rel=1e-6)
        assert 0 < layer["top_blocks"]["1"] <= layer["top_blocks"]["5"] <= layer["top_blocks"]["10"]
    merged = mean_over_scenes(scenes)
    for key in ("mean", "max"):
        values = [scene[2]["attention"]["patch_patch"][key] for scene in scenes]
        expected = sum(values) / 2 if key == "mean" else max(values)
        assert merged[2]["attention"]["patch_patch"][key] == pytest.approx(expected)
    assert mean_over_scenes([[{**scenes[0][0], "row_mass": None}]])[0]["row_mass"] is None
