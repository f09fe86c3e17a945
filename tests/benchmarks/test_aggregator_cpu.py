"""The benchmark of a whole aggregator, on the bundle of `covis demo`, and its parts by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from benchmarks.aggregator_cpu import attention_share, bound, main, selection_seconds
from tests.places import DEMO


def event(name: str, op: str, duration: int) -> dict[str, object]:
    return {"name": f"{name}_kernel_time", "dur": duration, "args": {"op_name": op}}


def test_every_second_attention_is_global() -> None:
    calls = [event(f"a{i}", "BlockSparseAttention", 1 if i % 2 == 0 else 10) for i in range(4)]
    events = [*calls, event("m", "MatMul", 18)]
    assert attention_share(events, layers=2) == pytest.approx(20 / 40)
    assert attention_share(events, layers=4) == pytest.approx(22 / 40)


def test_the_selection_is_what_does_not_lead_to_the_similarity() -> None:
    nodes = [
        helper.make_node("MatMul", ["tokens", "tokens"], ["raw"], name="pool"),
        helper.make_node("Clip", ["raw"], ["similarity"], name="clip"),
        helper.make_node("FarthestFirst", ["similarity"], ["rank"], name="farthest"),
        helper.make_node("Less", ["rank", "anchors"], ["level"], name="less"),
    ]
    graph = helper.make_graph(nodes, "g", [], [])
    times = {"pool": 100, "clip": 50, "farthest": 7, "less": 2}
    events = [event(name, "", 3 * time) for name, time in times.items()]  # a slower first run
    events += [event(name, "", time) for name, time in times.items()]
    assert selection_seconds(events, graph) == pytest.approx(9e-6)


def test_bound_by_hand() -> None:
    """Attention takes a half; of two layers one computes all, the other a fifth: 1 / (1 - 0.2)."""
    assert bound(0.5, np.array([1.0, 0.2])) == pytest.approx(1.25)


def test_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r.json"
    settings = ["anchors=2", "all:self"]
    main([str(DEMO), "--views", "10", "--settings", *settings, "--rounds", "2", "--out", str(out)])
    record = json.loads(out.read_text())
    rows = {row["setting"]: row for row in record["rows"]}
    assert list(rows) == ["dense", *settings]
    assert 0 < record["attention_share"] < 1 and 0 < record["patch_pairs"] < 1
    assert rows["dense"]["pairs"] == rows["dense"]["bound"] == 1
    assert rows["all:self"]["pairs"] == pytest.approx(0.1)
    assert rows["all:self"]["elements"] == pytest.approx(1 - 0.9 * record["patch_pairs"])
    assert rows["all:self"]["bound"] > rows["anchors=2"]["bound"] > 1
    assert all(row["selection_of_dense"] > 0 and len(row["seconds"]) == 2 for row in rows.values())
    assert capsys.readouterr().out.count("\n| 10 | ") == 3
