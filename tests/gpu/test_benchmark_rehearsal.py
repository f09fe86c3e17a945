"""The kernels' benchmark from end to end on the CPU: its code runs, what it times is acted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import attention_gpu, gpu_table
from benchmarks.peers_gpu import PEERS
from tests.gpu.on_cpu import OnCpu

Record = dict[str, Any]


@pytest.fixture
def acted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Kernel and precision of every launch; its time is a millisecond, that of D two."""
    launches: list[tuple[str, str]] = []

    def attention(q: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        launches.append((options.get("kernel", "auto"), options.get("precision", "full")))
        return q

    def measure(function: Callable[[], object], budget: float = 2.0, **more: Any) -> Record:
        function()
        return {"ms": 1.0, "ms_min": 1.0, "runs": 3, "clocks": {}, "beside_ms": 2.0}

    for module in (gpu_table, attention_gpu):
        monkeypatch.setattr(module, "measure", measure)
    monkeypatch.setattr(gpu_table, "kernel_times", lambda run: {"measure_rows": 0.1, "rest": 0.9})
    monkeypatch.setattr(gpu_table.attention, "block_sparse_attention", attention)
    monkeypatch.setattr(gpu_table.select, "block_select", lambda *a, **k: None)
    monkeypatch.setattr(gpu_table.farthest, "farthest_first", lambda *a, **k: None)
    for name in ("similarity", "pair_levels"):
        monkeypatch.setattr(gpu_table.saliency, name, lambda *a, **k: None)
    monkeypatch.setattr(attention_gpu, "load_kernels", lambda path: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    for name in ("synchronize", "reset_peak_memory_stats", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    for name in ("memory_allocated", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)
    monkeypatch.setattr(gpu_table, "scaled_dot_product_attention", lambda q, k, v: q)
    monkeypatch.setattr(gpu_table, "HEADS", 1)

    def peer(name: str, frames: int, density: float, head_dim: int, seconds: float) -> Record:
        assert 10 < seconds <= 90
        return {"ms": 4.0, "block": list(PEERS[name].block)}

    monkeypatch.setattr(attention_gpu, "run_peer", peer)
    return launches


def run(out: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> Record:
    words = ["attention_gpu.py", "--out", str(out), "--frames", "2", "1", "--peer-frames", "2"]
    monkeypatch.setattr(sys, "argv", [*words, *more])
    with OnCpu():
        attention_gpu.main()
    found: Record = json.loads(out.read_text())
    return found


def test_every_table_and_peer(
    acted: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(tmp_path / "a.json", monkeypatch)
    assert [(t["frames"], t["head_dim"]) for t in result["tables"]] == [(2, 64), (20, 128), (1, 64)]
    assert [len(t["rows"]) for t in result["tables"]] == [17, 15, 17]
    first = result["tables"][0]
    assert first["shares"]["fp8"]["share"]["listing"] == pytest.approx(0.1)
    assert first["D"]["by"] in ("torch flash", "torch cuDNN") and first["map_share"] == 4.0
    assert result["peers"]["of"]["FlexAttention"]["ms"] == 4.0
    assert result["peers"]["of"]["FlashInfer"] == {"absent": "flashinfer is not installed"}
    values = {row["target"]: row["value"] for row in result["summary"]}
    assert values["dense map, fp16, of D"] == 2.0
    assert any("peer" in target and value == 4.0 for target, value in values.items())
    assert {"gpu", "driver", "clocks", "commit"} <= result.keys()
    assert ("hopper-polynomial", "fp8") in acted


def test_what_hung_is_not_launched(
    acted: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ["hopper full", "hopper-polynomial full", "hopper-polynomial fp8"]
    result = run(tmp_path / "a.json", monkeypatch, "--left-out", *out)
    assert set(acted) == {("auto", "fp8")}
    assert result["left_out"] == out and result["peers"]["ours"] == {}
    assert list(result["tables"][0]["shares"]) == ["fp8"]


def test_a_cut_leaves_the_rows_so_far(
    acted: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(q: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        if options.get("precision") == "fp8":
            raise RuntimeError("the device is lost")
        return q

    monkeypatch.setattr(gpu_table.attention, "block_sparse_attention", lost)
    with pytest.raises(RuntimeError, match="the device is lost"):
        run(tmp_path / "a.json", monkeypatch)
    result = json.loads((tmp_path / "a.json").read_text())
    assert [row["precision"] for row in result["tables"][0]["rows"]] == ["full"]
    assert result["summary"][0]["value"] == 2.0


def test_what_does_not_fit_the_time_is_named(
    acted: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(tmp_path / "a.json", monkeypatch, "--seconds", "5")
    assert result["tables"] == [] and len(result["not_measured"]) == 3
    assert all("no time" in p["absent"] for n, p in result["peers"]["of"].items() if "Flex" in n)
