"""A sitting's promises, kept with processes that hang, crash and fork: no GPU is needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_facts
from tests.gpu.sitting import Part, Sitting, seconds_of, write_json
from tests.gpu.units import Series, series
from tests.places import ROOT

TOY = [sys.executable, "-m", "tests.gpu.toy_units"]


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def record(out: Path, name: str = "toy") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / f"{name}.json").read_text())
    return found


def statuses(out: Path) -> dict[str, str]:
    return {part["part"]: part["status"] for part in record(out)["parts"]}


def gone(child: str) -> bool:
    """Whether a killed process ends within seconds; nobody may be there to reap it."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_a_hanging_part_is_stopped_with_its_children_and_the_next_one_runs(tmp_path: Path) -> None:
    sitting = Sitting(tmp_path, "toy", 60)
    fork = (
        "import subprocess, sys, time; print('begun', flush=True);"
        "p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']);"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(p.pid)); time.sleep(60)"
    )
    started = time.monotonic()
    ended = sitting.run(Part("hangs", python(fork), 1.5))
    assert time.monotonic() - started < 30
    assert ended is not None and ended.code is None and "begun" in ended.output
    assert gone((tmp_path / "child").read_text())
    sitting.run(Part("goes on", python("print('here')"), 10))
    sitting.run(Part("fails", python("raise SystemExit(7)"), 10), lambda e: {"code": e.code})
    assert statuses(tmp_path) == {"hangs": "stopped", "goes on": "passed", "fails": "failed"}
    assert record(tmp_path)["parts"][2]["detail"] == {"code": 7}
    assert sitting.failed and "1 stopped, 1 passed, 1 failed" in sitting.summary()
    assert "== goes on\nhere" in (tmp_path / "toy.log").read_text()


def test_nothing_is_begun_once_the_time_is_up(tmp_path: Path) -> None:
    sitting = Sitting(tmp_path, "toy", 1)
    assert sitting.run(Part("late", python("print(1)"), 10)) is None
    series(sitting, Series("checks", TOY, ["first", "last"], 60, 5, 20))
    assert statuses(tmp_path) == {
        "late": "not run", "checks/first": "not run", "checks/last": "not run",
    }  # fmt: skip
    assert sitting.failed


def test_parts_side_by_side(tmp_path: Path) -> None:
    sitting = Sitting(tmp_path, "toy", 60)
    code = "import time; time.sleep(3)"
    started = time.monotonic()
    found = sitting.run_together([Part(f"part {i}", python(code), 20) for i in range(4)])
    assert time.monotonic() - started < 10
    assert all(ended is not None and ended.code == 0 for ended in found.values())
    assert sorted(statuses(tmp_path)) == [f"part {i}" for i in range(4)]


def test_a_check_that_fails_hangs_or_crashes_takes_no_other_with_it(tmp_path: Path) -> None:
    sitting = Sitting(tmp_path, "toy", 60)
    names = ["first", "second", "wrong", "asserts", "last", "raises", "missing", "hangs",
             "crashes", "last"]  # fmt: skip
    series(sitting, Series("checks", TOY, names, 50, 1.0, 20))
    parts = record(tmp_path)["parts"]
    assert [part["part"] for part in parts] == [f"checks/{name}" for name in names]
    assert [part["status"] for part in parts] == [
        "passed", "passed", "failed", "failed", "passed", "failed", "absent", "stopped", "failed",
        "passed",
    ]  # fmt: skip
    process = [part["detail"] for part in parts]
    assert process[0] == process[1] == process[4]  # an assertion does not end the process
    assert process[9] != process[0]
    assert process[2][0] == {"case": "b", "ok": False}
    assert "toy assertion" in process[3] and "toy error" in process[5]
    assert process[6] == "no such toy" and process[7].startswith("stopped at 1 s")
    assert process[8].startswith("its process ended with 9")


def test_the_subject_of_a_check_that_hung_comes_last(tmp_path: Path) -> None:
    sitting = Sitting(tmp_path, "toy", 60)
    names = ["hangs fast", "first slow", "first fast", "second slow", "last"]
    series(sitting, Series("checks", TOY, names, 50, 1.0, 20))
    assert list(statuses(tmp_path)) == [
        f"checks/{name}"
        for name in ("hangs fast", "first slow", "second slow", "last", "first fast")
    ]
    assert list(statuses(tmp_path).values()) == ["stopped"] + ["passed"] * 4


def test_a_process_that_begins_nothing_is_not_tried_for_every_check(tmp_path: Path) -> None:
    sitting = Sitting(tmp_path, "toy", 60)
    broken = Series("checks", python("raise SystemExit('no library')"), ["a", "b", "c"], 50, 5, 20)
    series(sitting, broken)
    slow = Series("slow", python("import time; time.sleep(60)"), ["a", "b"], 50, 5, 1.0)
    series(sitting, slow)
    parts = record(tmp_path)["parts"]
    assert [part["status"] for part in parts] == [
        "failed", "not run", "not run", "stopped", "not run",
    ]  # fmt: skip
    assert "before its first check" in parts[0]["detail"] and "no library" in parts[0]["detail"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_cut_leaves_the_earlier_parts_whole(tmp_path: Path, how: signal.Signals) -> None:
    code = f"""
import sys
from pathlib import Path
from tests.gpu.sitting import Part, Sitting, end_with_signal
end_with_signal()
sitting = Sitting(Path({str(tmp_path)!r}), "toy", 60)
sitting.run(Part("done", [sys.executable, "-S", "-c", "print(1)"], 10))
hang = "import os, time; open({str(tmp_path / "child")!r}, 'w').write(str(os.getpid()))"
sitting.run(Part("cut", [sys.executable, "-S", "-c", hang + "; time.sleep(60)"], 50))
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL)
    child = tmp_path / "child"
    deadline = time.monotonic() + 30
    while not (child.is_file() and child.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(how)
    process.wait(20)
    assert statuses(tmp_path) == {"done": "passed"}
    if how == signal.SIGTERM:  # a kill leaves no one who could end the part
        assert gone(child.read_text())
    else:
        os.kill(int(child.read_text()), signal.SIGKILL)


def test_the_machine_without_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = gpu_facts.gpu_facts()
    assert facts["gpu"] is None and facts["driver"] is None
    assert set(facts["clocks"].values()) == set(facts["card"].values()) == {None}
    assert facts["versions"]["numpy"] and facts["versions"]["onnxruntime-gpu"] is None
    json.dumps(facts)


@pytest.mark.parametrize(
    ("script", "gpu"),
    [
        ("echo 'NVIDIA H200, 580.95.05, 143771 MiB, 1980 MHz, 3201 MHz, 700.00 W'", "NVIDIA H200"),
        ("echo 'NVIDIA-SMI has failed because it could not communicate'; exit 9", None),
        ("echo odd", None),
    ],
)
def test_what_nvidia_smi_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, gpu: str | None
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    facts = gpu_facts.gpu_facts()
    assert facts["gpu"] == gpu
    assert facts["driver"] == (gpu and "580.95.05")
    assert len(facts["commit"]) > 6


def test_a_copy_without_history_names_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_facts, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_facts, "machine", lambda: {"commit": "unknown"})
    assert gpu_facts.gpu_facts()["commit"] == "unknown"
    (tmp_path / "COMMIT").write_text("abc123\n")
    assert gpu_facts.gpu_facts()["commit"] == "abc123"


def test_limits_in_words() -> None:
    known = {"all": 480.0, "checks": 120.0}
    assert seconds_of([], known) == known
    assert seconds_of(["300", "checks=0"], known) == {"all": 300.0, "checks": 0.0}
    for words, message in (
        ("fast=1", "names no part; use all, checks"),
        ("checks=soon", "is no number of seconds"),
        ("checks=-1", "is not in"),
        ("nan", "is not in"),
    ):
        with pytest.raises(ValueError, match=message):
            seconds_of([words], known)


def test_a_record_is_replaced_at_once(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
