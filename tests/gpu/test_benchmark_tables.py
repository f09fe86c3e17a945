"""What of the GPU benchmark is plain arithmetic: maps, rounding to blocks, tables, arguments."""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import attention_gpu, gpu_rows, gpu_summary, peers_gpu
from benchmarks.gpu_maps import (
    FRAME,
    PATCHES,
    anchor_map,
    block_name,
    padded,
    pair_map,
    pairs_of,
    rounded,
    row_pointers,
)
from benchmarks.gpu_timing import short_name
from tests.gpu.kernel_units import kernel_units


@pytest.mark.parametrize("density", [1.0, 0.25, 0.126, 0.062, 0.03])
def test_maps_have_the_density_asked_for(density: float) -> None:
    frames = 100
    level = pair_map(frames, density)
    assert level.shape == (1, 1, frames, frames)
    assert abs(float((level > 0).float().mean()) - density) < 0.02 * density + 0.002
    assert (level[0, 0, 0] > 0).all()
    assert (level[0, 0].diagonal() == 2).all()
    mixed = pair_map(frames, density, low=True)
    assert torch.equal(mixed > 0, level > 0)
    if density > 0.1:  # below, nearly all pairs are those that every map keeps
        assert 0.2 < float((mixed == 1).sum() / (mixed > 0).sum()) <= 0.5


@pytest.mark.parametrize("anchors", [0, 10, 40, 200])
def test_maps_of_anchors_share_one_list(anchors: int) -> None:
    kept = anchor_map(100, anchors)[0, 0] > 0
    shared = kept.all(dim=0)
    assert int(shared.sum()) == min(anchors, 100)
    assert kept.diagonal().all()
    others = (kept & ~shared).sum(dim=1)
    assert int(others.max()) <= (5 if anchors else 1)  # itself and four neighbours


def test_pairs_are_counted_as_the_rule_says() -> None:
    frames = 2
    level = torch.tensor([[2, 0], [1, 2]], dtype=torch.int8)[None, None]
    place = np.arange(frames * FRAME) % FRAME
    special = place < FRAME - PATCHES
    frame = np.arange(frames * FRAME) // FRAME
    kept = level[0, 0].numpy()[frame][:, frame] > 0
    assert pairs_of(level) == int((kept | special[:, None] | special[None]).sum())


@pytest.mark.parametrize("block", [(64, 64), (192, 128)])
def test_rounding_keeps_every_block_that_touches_a_kept_pair(block: tuple[int, int]) -> None:
    frames = 3
    level = torch.tensor([[2, 0, 0], [0, 1, 0], [2, 0, 2]], dtype=torch.int8)[None, None]
    frame = np.arange(frames * FRAME) // FRAME
    kept = level[0, 0].numpy()[frame][:, frame] > 0
    rows = -(-kept.shape[0] // block[0])
    columns = -(-kept.shape[1] // block[1])
    expected = np.zeros((rows, columns), bool)
    for i, j in np.ndindex(rows, columns):
        part = kept[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]]
        expected[i, j] = part.any()
    lists = rounded(level, *block)
    np.testing.assert_array_equal(lists.kept.numpy(), expected)
    assert lists.pairs(*block) == expected.sum() * block[0] * block[1]
    starts, entries = row_pointers(lists)
    for i in range(rows):
        own = np.flatnonzero(expected[i])
        np.testing.assert_array_equal(lists.indices[0, 0, i, : len(own)].numpy(), own)
        np.testing.assert_array_equal(entries[starts[i] : starts[i + 1]].numpy(), own)
        assert int(lists.counts[0, 0, i]) == len(own)
    whole = peers_gpu.whole(lists, 384 * 11, block)
    assert (whole.counts > 0).all(), "an empty row would be a division by zero in a peer"
    np.testing.assert_array_equal(whole.kept[:rows, :columns].numpy(), expected)


def test_reference_of_a_query_block() -> None:
    """The formula that judges peers, against masked attention."""
    q, k, v = (padded(torch.randn(1, 2, 300, 16), 64) for _ in range(3))
    keep = torch.tensor([True, False, True, False, True])
    out = peers_gpu.formula(q, k, v, keep, slice(64, 128), 64)
    mask = keep.repeat_interleave(64)
    scores = (q @ k.transpose(2, 3) / 4).masked_fill(~mask, -torch.inf)
    expected = (scores.softmax(-1) @ v)[0, :, 64:128]
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("name", ["FlexAttention", "cudnn-frontend"])
def test_peers_say_why_they_are_absent(name: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU; the benchmark runs there")
    record = peers_gpu.run_peer(name, 1, 1.0, 64, seconds=60.0)
    assert "ms" not in record
    assert record["absent"]


def test_a_peer_is_stopped_with_its_compilers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nsleep 50 &\nsleep 50\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    started = time.monotonic()
    record = peers_gpu.run_peer("FlexAttention", 1, 1.0, 64, seconds=1.0)
    assert record == {"absent": "gave nothing in 1 s (it compiles at first use)"}
    assert time.monotonic() - started < 25


def test_summary_states_what_is_missing_and_judges_what_is_there() -> None:
    def row(name: str, density: float, ms: float, precision: str = "full") -> dict[str, object]:
        pairs = density
        return {
            "map": name,
            "density": density,
            "kernel": "auto",
            "precision": precision,
            "ms": ms,
            "tflops": 1.0,
            "of_D": 100.0 / ms * pairs,
            "efficiency": 100.0 / ms * pairs,
            "speed_up": 100.0 / ms,
        }

    table = {
        "head_dim": 64,
        "tokens": 137400,
        "D": {"ms": 100.0, "by": "x", "tflops": 1.0},
        "rows": [row("dense map", 1.0, 110.0), row("frame pairs", 0.251, 28.0)],
        "map_share": 0.02,
    }
    peers = {
        "ours": {block_name((64, 64)): {"ms": 10.0}, block_name((128, 128)): {"ms": 9.0}},
        "of": {
            "a": {"ms": 15.0, "block": [64, 64]},
            "b": {"ms": 10.8, "block": [128, 128]},
            "c": {"absent": "not installed"},
        },
    }
    result = {"tables": [table], "peers": peers}
    found = {row["target"]: row for row in gpu_summary.summary(result)}
    dense = found["dense map, fp16, of D"]
    assert dense["value"] == pytest.approx(100 / 110)
    assert dense["met"] is False
    assert found["dense map, fp8, of D"]["value"] is None
    assert found["dense map, fp8, of D"]["met"] is None
    assert found["speed-up at 25 %"]["met"] is True
    assert found["speed-up at 12.6 %"]["value"] is None
    assert found["building the map, share of one dense layer"]["met"] is False
    assert found[gpu_summary.PEER[0]]["value"] == pytest.approx(1.2)
    written = gpu_summary.text({**result, "summary": list(found.values())})
    assert "not measured" in written
    assert "MISSED" in written
    assert gpu_summary.summary({"tables": []}) == []
    json.dumps(list(found.values()))


def test_kernel_names_are_shortened() -> None:
    assert short_name("void covis::(anonymous namespace)::quantize_cell<__half, 64>(covis::Q)") == (
        "quantize_cell"
    )
    assert short_name("covis::(anonymous namespace)::sort_rows(covis::Geometry)") == "sort_rows"
    assert short_name("Memset (Device)") == "Memset"


def test_rows_of_kernels_that_hung_are_left_out() -> None:
    rows = gpu_rows.planned_rows(True, 64, ())
    assert len(rows) == 4 + 5 + 4 + 4
    assert {(r.kernel, r.precision) for r in rows} == {
        ("auto", "full"), ("auto", "fp8"), ("hopper-polynomial", "full"),
        ("hopper-polynomial", "fp8"),
    }  # fmt: skip
    rows = gpu_rows.planned_rows(True, 64, ["hopper fp8", "hopper-polynomial full"])
    assert [(r.kernel, r.precision) for r in rows if r.density is r.anchors is None] == [
        ("auto", "full"), ("hopper-polynomial", "fp8"),
    ]  # fmt: skip
    assert {r.precision for r in rows if r.density is not None} == {"full"}
    assert [r.anchors for r in rows if r.anchors is not None] == [0, 10, 25, 40]
    assert len(gpu_rows.planned_rows(False, 64, ())) == 1 + 5 + 4
    assert gpu_rows.planned_rows(False, 64, ["portable full"]) == []
    subjects = {s for h in (True, False) for s in kernel_subjects(hopper=h)}
    assert subjects <= set(gpu_rows.SUBJECTS)


def kernel_subjects(*, hopper: bool) -> set[str]:
    """The subjects in the names of the kernel checks, as kernels_day reads them."""
    names = kernel_units(ctypes.CDLL(None), hopper=hopper)
    return {name.partition(" ")[2] for name in names if name.startswith("vectors ")}


def test_arguments() -> None:
    given = attention_gpu.arguments(["--out", "x.json", "--frames", "4", "8"])
    assert (given.peer_seconds, given.peer_frames) == (90.0, 100)
    assert given.out == Path("x.json")
    assert given.frames == [4, 8]
    assert given.library.name == "libcovis_kernels.so"
