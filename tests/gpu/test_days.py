"""Both sittings from end to end without a GPU: their order, limits, and what they leave behind."""

from __future__ import annotations

import json
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu import engines_day, kernels_day, sanitizer
from tests.gpu.engine_checks import CHECKS, STRIPPED
from tests.gpu.sitting import Ended

Captured = pytest.CaptureFixture[str]
Toy = Any


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    """Acts all processes; called with how parts go."""
    python = (sys.executable, "-m", "tests.gpu.toy_machine")
    monkeypatch.setattr(kernels_day, "PYTHON", python)
    monkeypatch.setattr(engines_day, "PYTHON", python)
    monkeypatch.setattr("tests.gpu.sanitizer.find_sanitizer", lambda: None)
    return lambda **says: monkeypatch.setenv(
        "TOY", json.dumps({key.replace("_of_", " "): value for key, value in says.items()})
    )


def parts(out: Path, name: str) -> dict[str, dict[str, Any]]:
    record = json.loads((out / f"{name}.json").read_text())
    assert {"gpu", "driver", "clocks", "commit", "time", "versions"} <= record.keys()
    assert all("clocks" in part and "seconds" in part for part in record["parts"])
    return {part["part"]: part for part in record["parts"]}


def statuses(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: part["status"] for name, part in found.items()}


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "libcovis_kernels.so"
    path.touch()
    return path


def kernels(out: Path, library: Path, *more: str) -> int:
    return kernels_day.main(["--out", str(out), "--library", str(library), *more])


def test_the_kernels_day(toy: Toy, tmp_path: Path, library: Path, capsys: Captured) -> None:
    peers = {"FlexAttention": {"ms": 3.0}, "FlashInfer": {"absent": "flashinfer is not installed"}}
    toy(benchmark={"tables": [{"frames": 4, "head_dim": 64}], "peers": {"of": peers}})
    assert kernels(tmp_path / "out", library) == 0
    found = parts(tmp_path / "out", "kernels")
    assert statuses(found) == {
        "checks/strides": "passed", "checks/graph": "passed", "checks/vectors": "passed",
        "benchmark": "passed", "memcheck": "absent",
    }  # fmt: skip
    assert list(found) == [
        "checks/strides", "checks/graph", "checks/vectors", "benchmark", "memcheck",
    ]  # fmt: skip
    # What is not installed is told as absent, never as passed.
    assert found["benchmark"]["detail"]["peers"] == {
        "FlexAttention": 3.0, "FlashInfer": "flashinfer is not installed",
    }  # fmt: skip
    assert found["memcheck"]["detail"] == "compute-sanitizer is not installed"
    assert "kernels: 4 passed, 1 absent" in capsys.readouterr().out


def test_a_hanging_check_and_benchmark_cost_their_limits_alone(
    toy: Toy, tmp_path: Path, library: Path
) -> None:
    toy(graph="hangs", benchmark={"tables": []}, benchmark_hangs=True)
    started = time.monotonic()
    limits = ["--seconds", "each=1", "benchmark=8", "racecheck=5"]
    assert kernels(tmp_path / "out", library, *limits) == 1
    assert time.monotonic() - started < 60
    found = parts(tmp_path / "out", "kernels")
    assert statuses(found) == {
        "checks/strides": "passed", "checks/graph": "stopped", "checks/vectors": "passed",
        "benchmark": "stopped", "memcheck": "absent", "racecheck": "absent",
    }  # fmt: skip
    # What the benchmark had written before it hung is there.
    assert (tmp_path / "out" / "attention.json").is_file()
    assert found["benchmark"]["detail"]["file"] == "attention.json"


def test_the_benchmark_leaves_out_a_kernel_that_hung(
    toy: Toy, tmp_path: Path, library: Path
) -> None:
    kernels_there = ["strides hopper full", "strides hopper fp8", "selectors"]
    toy(**{"kernels": kernels_there, "strides hopper fp8": "hangs", "selectors": "wrong"})
    assert kernels(tmp_path, library, "--seconds", "each=1", "memcheck=0") == 1
    found = parts(tmp_path, "kernels")
    assert found["benchmark"]["detail"]["left_out"] == ["hopper fp8"]


def test_parts_can_be_left_out(toy: Toy, tmp_path: Path, library: Path) -> None:
    toy()
    assert kernels(tmp_path, library, "--seconds", "30", "benchmark=0", "memcheck=0") == 0
    assert {name.split("/")[0] for name in parts(tmp_path, "kernels")} == {"checks"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_nothing_is_said_to_have_passed(
    tmp_path: Path, library: Path, capsys: Captured
) -> None:
    assert kernels(tmp_path, library) == 3
    record = json.loads((tmp_path / "kernels.json").read_text())
    assert record["parts"] == [] and record["cuda_device"] is None
    assert record["reason"] == "torch sees no CUDA device"
    assert "nothing was checked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seconds", "fast=3"], "--seconds: 'fast=3' names no part; use all, checks"),
        (["--seconds", "soon"], "--seconds: 'soon' is no number of seconds"),
        (["--frames", "0"], "--frames: use 1 or more"),
        (["--library", "nowhere.so"], "nowhere.so: no such library; build it with `make plugins`"),
    ],
)
def test_mistakes(tmp_path: Path, library: Path, words: list[str], message: str,
                  capsys: Captured) -> None:  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        kernels(tmp_path / "out", library, *words)
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def fake_sanitizer(path: Path, fault: str, launches: str) -> Path:
    """A program that answers as compute-sanitizer does: exit codes and reports."""
    path.write_text(f'#!/bin/sh\ncase "$*" in\n*--fault) {fault};;\n*) {launches};;\nesac\n')
    path.chmod(0o755)
    return path


SEEN = "echo 'Invalid __global__ read in measure_rows'; exit 9"
CLEAN = "echo launched portable; echo 'ERROR SUMMARY: 0 errors'"


@pytest.mark.parametrize(
    ("fault", "launches", "status"),
    [
        (SEEN, CLEAN, "passed"),
        ("echo 'ERROR SUMMARY: 0 errors'", CLEAN, "failed"),  # a fault it did not see
        (SEEN, "echo 'ERROR SUMMARY: 0 errors'", "failed"),  # no launch of ours
        (SEEN, "echo launched; echo 'ERROR SUMMARY: 2 errors'; exit 9", "failed"),
        (SEEN, "sleep 60", "stopped"),
    ],
)
def test_the_sanitizers_word(
    toy: Toy, tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch, fault: str,
    launches: str, status: str,
) -> None:  # fmt: skip
    toy()
    program = fake_sanitizer(tmp_path / "compute-sanitizer", fault, launches)
    monkeypatch.setattr("tests.gpu.sanitizer.find_sanitizer", lambda: program)
    limits = ["checks=0", "benchmark=0", "memcheck=8"]
    code = kernels(tmp_path / "out", library, "--seconds", *limits)
    assert statuses(parts(tmp_path / "out", "kernels")) == {"memcheck": status}
    assert code == (0 if status == "passed" else 1)


def test_racecheck_makes_no_fault() -> None:
    clean = Ended(0, 1.0, "launched x\nRACECHECK SUMMARY: 0 hazards displayed")
    assert sanitizer.judged("racecheck", {"launches": clean})[0] == "passed"
    assert sanitizer.judged("memcheck", {"launches": clean})[0] == "failed"
    stopped = Ended(None, 1.0, clean.output)
    assert sanitizer.judged("racecheck", {"launches": stopped})[0] == "stopped"
    assert sanitizer.judged("memcheck", {"launches": clean, "fault": stopped})[0] == "stopped"


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    for name in ("wide", "half", "full"):
        (tmp_path / "bundles" / name).mkdir(parents=True)
        (tmp_path / "bundles" / name / "manifest.json").write_text("{}")
    return tmp_path / "bundles"


def engines(out: Path, bundles: Path, library: Path, *more: str) -> int:
    words = ["--out", str(out), "--bundles", str(bundles), "--plugin", str(library)]
    return engines_day.main([*words, *more])


def test_the_engines_day(toy: Toy, tmp_path: Path, bundles: Path, library: Path) -> None:
    toy(benchmark={"runs": [{"views": 100}], "most": {"views": 321}})
    out = tmp_path / "out"
    assert engines(out, bundles, library, "--seconds", "200") == 0
    found = parts(out, "engines")
    assert set(statuses(found).values()) == {"passed"}
    names = list(found)
    assert names[0] == "build aggregator"
    assert set(names[1:7]) == {f"build {stage}" for stage in engines_day.OTHERS}
    assert set(names[7:9]) == {f"build stripped {stage}" for stage in STRIPPED}
    checks = [f"checks/{name}" for name in CHECKS]
    assert names[9 : 9 + len(checks)] == checks
    assert names[9 + len(checks)] == "full weights" and names[-1] == "full run"
    assert found["full run"]["detail"]["views"] == [100]
    assert found["full run"]["detail"]["most"] == {"views": 321}
    kept = zipfile.ZipFile(out / "layers.zip").namelist()
    assert "build-aggregator.json" in kept and "full-build-points.json" in kept
    assert {path.name for path in out.iterdir()} == {
        "engines.json", "engines.log", "layers.zip", "vggt.json",
    }  # fmt: skip


def test_a_refused_proof_keeps_the_evidence_and_the_checks(
    toy: Toy, tmp_path: Path, bundles: Path, library: Path
) -> None:
    toy(half_of_aggregator="refused", half_of_encoder="fails", half_of_depth="hangs",
        threads="raises", onnxruntime="missing", memory="hangs")  # fmt: skip
    out = tmp_path / "out"
    limits = ["--seconds", "200", "build=10", "each=2"]
    assert engines(out, bundles, library, *limits) == 1
    told = statuses(parts(out, "engines"))
    assert told["build aggregator"] == "failed" and told["build unproven aggregator"] == "passed"
    assert told["build encoder"] == "failed" and "build unproven encoder" not in told
    assert told["build depth"] == "stopped" and told["build points"] == "passed"
    # Once refused, a stage is not built with the proof again: there is no time for that.
    assert (
        "full build unproven aggregator" not in told and told["full build aggregator"] == "passed"
    )
    assert told["checks/threads"] == "failed" and told["checks/zero_copy"] == "passed"
    assert told["checks/onnxruntime"] == "absent" and told["checks/memory"] == "stopped"
    assert told["full run"] == "passed"
    assert "build-aggregator.json" in zipfile.ZipFile(out / "layers.zip").namelist()
    assert "building encoder fails" in (out / "engines.log").read_text()


def test_stages_known_to_be_refused_are_built_once(
    toy: Toy, tmp_path: Path, bundles: Path, library: Path
) -> None:
    toy(full_of_encoder="refused", full_of_depth="refused")
    limits = ["--seconds", "60", "build=0", "checks=0", "--unproven", "encoder"]
    assert engines(tmp_path / "out", bundles, library, *limits) == 1
    told = statuses(parts(tmp_path / "out", "engines"))
    assert told["full build encoder"] == "passed"
    assert told["full build depth"] == "failed" and told["full build unproven depth"] == "passed"
    assert "full build unproven encoder" not in told


def test_the_whole_ends_in_time(toy: Toy, tmp_path: Path, bundles: Path, library: Path) -> None:
    toy(half_of_aggregator="hangs")
    started = time.monotonic()
    assert engines(tmp_path / "out", bundles, library, "--seconds", "6") == 1
    assert time.monotonic() - started < 40
    told = statuses(parts(tmp_path / "out", "engines"))
    assert told["build aggregator"] == "stopped"
    assert told["checks/scene"] == "not run" and told["full weights"] == "not run"


def test_without_full_size_graphs(toy: Toy, tmp_path: Path, bundles: Path, library: Path) -> None:
    toy()
    (bundles / "full" / "manifest.json").unlink()
    (bundles / "full").rmdir()
    limits = ["--seconds", "60", "build=0", "checks=0"]
    assert engines(tmp_path / "out", bundles, library, *limits) == 0
    assert statuses(parts(tmp_path / "out", "engines")) == {"full": "absent"}


def test_engines_without_a_gpu(tmp_path: Path, bundles: Path, library: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert engines(tmp_path / "out", bundles, library) == 3
    record = json.loads((tmp_path / "out" / "engines.json").read_text())
    assert record["parts"] == [] and record["reason"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bundles", "nowhere"], "nowhere/wide: no such bundle; see prepare.py bundles"),
        (["--plugin", "nowhere.so"], "nowhere.so: no such plugin library"),
        (["--views", "0"], "--views: use 1 or more"),
        (["--seconds", "build=x"], "--seconds: 'build=x' is no number of seconds"),
    ],
)
def test_mistakes_of_the_engines(
    tmp_path: Path, bundles: Path, library: Path, words: list[str], message: str, capsys: Captured
) -> None:
    with pytest.raises(SystemExit) as stopped:
        engines(tmp_path / "out", bundles, library, *words)
    assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_check_by_name_is_there() -> None:
    from tests.gpu.engine_checks import check

    for name in CHECKS:
        assert check(name).__doc__
