"""Percentiles, averages and ratios of benchmarks."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from covis.evaluation.bench.record import (
    Samples,
    averages,
    latency,
    machine,
    ratios,
    setting_record,
)
from tests.places import ROOT


def test_latency_by_hand() -> None:
    found = latency([5.0, 1.0, 3.0, 2.0, 4.0, 6.0, 8.0, 7.0, 10.0, 9.0], [50, 90, 99, 100, 0.5])
    assert (found.runs, found.min, found.max, found.mean, found.median) == (10, 1, 10, 5.5, 5.5)
    assert found.percentiles == {"50": 5.0, "90": 9.0, "99": 10.0, "100": 10.0, "0.5": 1.0}
    assert latency([2.0], [99]).percentiles == {"99": 2.0}


def test_averages_leave_a_rest_out() -> None:
    assert averages([1.0, 3.0, 5.0, 7.0, 100.0], 2) == [2.0, 6.0]
    assert averages([1.0], 10) == []


def samples(aggregator: str, times: list[float], rest: float) -> Samples:
    taken = Samples(whole=[t + rest for t in times])
    for time in times:
        taken.add("encoder", rest, 100)
        taken.add(aggregator, time, int(10 * time))
    return taken


def test_ratios_pair_the_two_aggregators() -> None:
    dense = samples("aggregator", [8.0, 8.0, 80.0], 2.0)  # one run was disturbed
    pooled = samples("aggregator_pooled", [2.0, 2.0, 2.0], 2.0)
    found = ratios({"dense": dense, "pooled": pooled}, "dense")
    assert found == {"pooled": {"encoder": 1.0, "aggregator_pooled": 4.0, "whole": 2.5}}


def test_record_of_a_setting() -> None:
    record = setting_record(samples("aggregator", [3.0, 5.0], 1.0), 10, [99], 2)
    assert record["latency_ms"]["mean"] == 5.0 and record["averages_ms"] == [5.0]
    assert record["views_per_second"] == pytest.approx(2000.0)
    assert record["stages"]["aggregator"]["memory_bytes"] == 50
    assert list(record["stages"]) == ["encoder", "aggregator"]


def test_machine_names_the_commit() -> None:
    found = machine()
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found["commit"] == (done.stdout.strip() or "unknown")
    else:
        assert found["commit"] == "unknown"
    assert found["time"].endswith("Z")


def test_a_machine_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine()["commit"] == "unknown"
