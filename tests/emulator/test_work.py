"""What the attention kernels execute for a map: counted, since an emulator cannot say how fast.

A frame of 128 patches is two pieces of 64, so that each kept frame pair is a whole number of
products and copies, and nothing is padded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from covis.export.ops.cuda import attention
from covis.export.ops.layout import TokenLayout
from tests.emulator.emulator import Emulator

Level = NDArray[np.int8]
FRAMES, PATCHES, PIECES = 8, 128, 2


def anchor_map(own_frame: bool) -> Level:
    """Every frame attends to frames 1 and 4, and to itself where `own_frame` says so."""
    level: Level = np.zeros((FRAMES, FRAMES), np.int8)
    level[:, [1, 4]] = 2
    if own_frame:
        np.fill_diagonal(level, 2)
    return level


def random_map(like: Level) -> Level:
    """As many frames in each row as in `like`, chosen at random."""
    order = np.random.default_rng(0).permuted(np.tile(np.arange(FRAMES), (FRAMES, 1)), axis=1)
    level: Level = np.where(order < (like > 0).sum(1, keepdims=True), 2, 0).astype(np.int8)
    return level


def work(emulator: Emulator, level: Level, special: int = 0, **options: Any) -> dict[str, int]:
    """The emulator's counters for one launch."""
    frame = PATCHES + special
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, FRAMES * frame, 64).half() for _ in range(3))
    before = emulator.counters()
    emulator.attention(
        q,
        k,
        v,
        torch.from_numpy(level)[None, None],
        layout=TokenLayout(frame, special),
        q_block=PATCHES,
        k_block=PATCHES,
        **options,
    )
    return {name: count - before[name] for name, count in emulator.counters().items()}


@pytest.mark.parametrize("own_frame", [True, False])
@pytest.mark.parametrize("kernel", ["hopper", "portable"])
def test_anchors_cost_their_share_of_the_dense_map(
    emulator: Emulator, kernel: attention.Kernel, own_frame: bool
) -> None:
    """Products, and on Hopper also TMA loads: those of the queries and K, V of each kept pair."""
    level = anchor_map(own_frame)
    kept = int((level > 0).sum())
    dense = work(emulator, np.full((FRAMES, FRAMES), 2, np.int8), kernel=kernel)
    anchors = work(emulator, level, kernel=kernel)
    assert dense["products"] > 0
    assert anchors["products"] * FRAMES**2 == dense["products"] * kept
    if kernel == "hopper":
        assert anchors["copies"] == PIECES * FRAMES + 2 * PIECES * kept


@pytest.mark.parametrize(
    ("special", "options"),
    [(0, {}), (5, {}), (5, {"kernel": "portable"}), (0, {"precision": "fp8"})],
)
def test_anchors_cost_what_random_pairs_of_the_same_share_cost(
    emulator: Emulator, special: int, options: dict[str, Any]
) -> None:
    """To a kernel a list that rows share is a list as any other; with FP8, level 1 elsewhere."""
    maps = [anchor_map(True), random_map(anchor_map(True))]
    if "precision" in options:
        maps = [np.maximum(level, 1) for level in maps]
    anchors, others = (work(emulator, level, special, **options) for level in maps)
    for name in ("launches", "ctas", "products", "copies", "stores"):
        assert anchors[name] == others[name]


@pytest.mark.parametrize("special", [0, 5])
def test_own_frames_cost_what_attention_inside_each_frame_costs(
    emulator: Emulator, special: int
) -> None:
    """Beside special tokens, whose pairs any map keeps: the difference to no pair at all."""
    own = work(emulator, 2 * np.eye(FRAMES, dtype=np.int8), special)
    none = work(emulator, np.zeros((FRAMES, FRAMES), np.int8), special)
    one_pair = work(emulator, np.full((FRAMES, FRAMES), 2, np.int8))["products"] // FRAMES**2
    assert own["products"] - none["products"] == FRAMES * one_pair
    assert own["copies"] - none["copies"] == 2 * PIECES * FRAMES
