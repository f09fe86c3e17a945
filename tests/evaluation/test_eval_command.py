"""`covis eval` from the command line: end to end, resumed, interrupted, and every way to fail."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import pytest

from covis.cli import run_command
from covis.commands.demo import demo_bundle
from tests.file_limit import file_limit
from tests.places import ROOT

pytest.importorskip("scipy", reason="point clouds need the extra `eval`")

Captured = pytest.CaptureFixture[str]
FIRST = 1_000_000
FEW = ("--views", "2", "--max-points", "500", "--icp", "2", "--threads", "1")


def evaluate(out: Path, spec: str, *more: str, bundle: Path | None = None) -> int:
    command = ["eval", str(bundle or demo_bundle()), "synthetic", spec, "--out", str(out), *FEW]
    return run_command([*command, *more])


def seeds(count: int) -> str:
    return f"studio/orbit/{FIRST}-{FIRST + count - 1}/3"


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def last_line(capsys: Captured) -> str:
    """The error, one line, which follows the progress bar."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    lines = err.splitlines()
    assert [line for line in lines if line.startswith("covis: ")] == lines[-1:]
    return lines[-1]


def test_end_to_end_and_again(tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "out"
    assert evaluate(out, seeds(2), "--selector", "dense") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2:] == [str(out / "results.json"), str(out / "results.csv")]
    assert "AUC@30" in printed[0] and printed[-3].split()[:2] == ["all", "(2)"]
    first = report(out)
    assert [s["scene"] for s in first["scenes"]] == [f"studio/orbit/{FIRST + i}/3" for i in (0, 1)]
    assert first["options"]["sparsity"]["selector"] == "dense" and not first["failed"]
    for record in first["scenes"]:
        assert record["pairs"] == 1
        assert record["relative_blocks"] == record["attention_work"] == 1.0
        assert 0.0 <= record["auc3"] <= record["auc30"] <= 1.0
        assert record["abs_rel"] > 0 and record["chamfer"] > 0 and record["ate"] is None
    with (out / "results.csv").open(newline="") as file:
        assert [row["views"] for row in csv.DictReader(file)] == ["2", "2"]

    # More scenes with the same options: only the new one is computed.
    stamps = {p: p.stat().st_mtime_ns for p in (out / "scenes").iterdir()}
    assert evaluate(out, seeds(3), "--selector", "dense") == 0
    assert "2 of 3 scenes are done already" in capsys.readouterr().err
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())
    second = report(out)
    assert second["scenes"][:2] == first["scenes"] and second["summary"]["scenes"] == 3

    # Other options do not mix.
    assert evaluate(out, seeds(2), "--selector", "saliency") == 2
    assert 'selector: "dense", now "saliency"); choose another --out' in last_line(capsys)
    assert report(out) == second


def test_the_same_views_whatever_else_is_evaluated(tmp_path: Path) -> None:
    assert (
        evaluate(tmp_path / "a", seeds(2), "--metrics", "pose", "--scenes", f"*/{FIRST + 1}/*") == 0
    )
    assert evaluate(tmp_path / "b", seeds(2), "--metrics", "pose") == 0
    (alone,), (_, together) = report(tmp_path / "a")["scenes"], report(tmp_path / "b")["scenes"]
    assert alone["scene"] == together["scene"]
    assert alone["rotation_median"] == together["rotation_median"]
    assert "abs_rel" not in alone and "chamfer" not in alone


def test_the_former_name_of_the_synthetic_scenes(tmp_path: Path, capsys: Captured) -> None:
    command = ["eval", str(demo_bundle()), "made", seeds(1), "--out", str(tmp_path / "out"), *FEW]
    assert run_command([*command, "--metrics", "pose"]) == 0
    notices = [line for line in capsys.readouterr().err.splitlines() if "`made`" in line]
    assert notices == [
        "covis: the dataset `made` is now `synthetic`; the next version drops the old name"
    ]
    assert report(tmp_path / "out")["options"]["dataset"]["name"] == "synthetic"


def test_a_scene_that_fails_is_named_and_retried(tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "out"
    lonely = f"studio/orbit/{FIRST}/1"
    command = ["eval", str(demo_bundle()), "synthetic", lonely, seeds(1), "--out", str(out), *FEW]
    for _ in range(2):
        assert run_command(command) == 2
        err = capsys.readouterr().err.splitlines()
        assert any(
            line.startswith(f"{lonely}: has 1 usable view, and a pair needs") for line in err
        )
        assert err[-1].startswith(f"covis: {lonely}: 1 of 2 scenes could not be evaluated; ")
        found = report(out)
        assert list(found["failed"]) == [lonely] and found["summary"]["scenes"] == 1
    assert len(list((out / "scenes").iterdir())) == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_interrupted_and_resumed(tmp_path: Path, workers: str) -> None:
    out = tmp_path / "out"
    arguments = [sys.executable, "-m", "covis", "eval", str(demo_bundle()), "synthetic", seeds(40),
                 "--out", str(out), *FEW, "--workers", workers, "--metrics", "pose"]  # fmt: skip
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        start_new_session=True, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(out.glob("scenes/*.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    printed, err = process.communicate(timeout=60)
    assert process.returncode == 130 and not printed and "Traceback" not in err
    assert err.splitlines()[-1] == "covis: interrupted; nothing was left half-written"
    done = {p: p.read_text() for p in (out / "scenes").iterdir()}
    assert 0 < len(done) < 40 and all(p.suffix == ".json" for p in done)
    kept = len(done) + 1
    assert evaluate(out, seeds(40), "--metrics", "pose", "--limit", str(kept)) == 0
    assert all(p.read_text() == text for p, text in done.items())
    names = [record["scene"] for record in report(out)["scenes"]]
    assert names == [f"studio/orbit/{FIRST + i}/3" for i in range(kept)]


def test_full_disk(tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "out"
    with file_limit(1 << 10):  # the options fit, the results do not
        assert evaluate(out, seeds(2)) == 3
    line = last_line(capsys)
    assert "3.json: cannot be written (File too large); check free space and rights, then" in line
    assert [p.name for p in out.rglob("*") if p.is_file()] == ["evaluation.json"]


@pytest.mark.parametrize(
    ("dataset", "spec", "more", "words"),
    [
        (
            "synthetic",
            "castle/orbit",
            [],
            "castle/orbit: names no synthetic scenes; write family/path",
        ),
        ("synthetic", "loop/fly", [], "loop/fly: names no synthetic scenes"),
        ("synthetic", "loop/loop/x", [], "loop/loop/x: has no seeds"),
        ("synthetic", "loop/loop/9-1", [], "has 0 seeds"),
        ("synthetic", "loop/loop/1/x", [], "has no number of views"),
        ("synthetic", "loop/loop/1/2/3", [], "names no synthetic scenes"),
        ("synthetic", "loop/loop", ["--views", "1"], "--views: 1 views make no pair"),
        ("synthetic", "loop/loop", ["--workers", "0"], "--workers: 0 is below 1"),
        ("synthetic", "loop/loop", ["--limit", "-1"], "--limit: -1 is negative"),
        ("synthetic", "loop/loop", ["--tau", "2"], "--tau: 2.0 is not in [0, 1]"),
        ("synthetic", "loop/loop", ["--scenes", "x*"], "--scenes x*: none of the 8 scenes"),
        ("synthetic", "loop/loop", ["--metrics", "beauty"], "beauty"),
        ("synthetic", "loop/loop", ["--max-points", "5"], "--max-points: 5 is below 100"),
        ("imagenet", "x", [], "imagenet"),
    ],
)
def test_wrong_arguments(
    tmp_path: Path, capsys: Captured, dataset: str, spec: str, more: list[str], words: str
) -> None:
    command = ["eval", str(demo_bundle()), dataset, spec, "--out", str(tmp_path / "out"), *more]
    assert run_command(command) == 2
    assert words in last_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_missing_things(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    assert evaluate(tmp_path / "out", seeds(1), bundle=tmp_path / "nowhere") == 2
    assert "nowhere: no such bundle folder" in last_line(capsys)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert evaluate(tmp_path / "out", seeds(1), "--ray", "auto") == 3
    assert "--ray needs Ray" in last_line(capsys)
    monkeypatch.setitem(sys.modules, "scipy.spatial", None)
    assert evaluate(tmp_path / "other", seeds(1)) == 3
    line = last_line(capsys)
    assert "point clouds need scipy" in line and "pip install 'covis[eval]'" in line
    assert evaluate(tmp_path / "poses", seeds(1), "--metrics", "pose", "depth") == 0


def test_names_are_those_of_the_readers() -> None:
    from covis.commands.eval import DatasetName, EvalCommand, MetricName
    from covis.evaluation.accuracy.scoring import METRICS, ScoreOptions
    from covis.evaluation.datasets import FORMER_NAMES, NAMES

    assert get_args(DatasetName) == (*NAMES, *FORMER_NAMES) and get_args(MetricName) == METRICS
    command = EvalCommand(Path(), "synthetic", (), Path())
    assert ScoreOptions() == ScoreOptions(
        command.metrics, command.source, command.max_points, command.icp
    )
