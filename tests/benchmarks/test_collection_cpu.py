"""The benchmark of collections runs, on few photos, and its numbers are those of the runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import collection_cpu


def test_parts_beside_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["accuracy", "--kinds", "objects/orbit", "--views", "12", "--part-views", "6"]
    monkeypatch.setattr("sys.argv", ["x", *options, "--results", str(tmp_path)])
    collection_cpu.main()
    rows = json.loads((tmp_path / "collection_cpu_accuracy.json").read_text())["rows"]
    assert [row["way"] for row in rows][:2] == ["one run", "one run, dense"]
    assert rows[0]["auc@30"] == rows[1]["auc@30"]  # auto is dense for so few views
    for row in rows:
        assert row["views"] == 12 and row["cpu_seconds"] > 0 and row["peak_mib"] > 50
        assert ("parts" in row["way"]) == (row["links"] > 0)


def test_memory_of_each_number_of_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["memory", "--photos", "8", "10", "--part-views", "6", "--results", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["x", *options])
    collection_cpu.main()
    rows = json.loads((tmp_path / "collection_cpu_memory.json").read_text())["rows"]
    assert [(row["photos"], row["way"]) for row in rows] == [
        (8, "one run"), (8, "parts"), (10, "one run"), (10, "parts"),
    ]  # fmt: skip
