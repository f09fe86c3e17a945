"""The cache of plans: built once, complete or absent, verified, whatever happens to builders."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from covis.engines.errors import CovisError, ExitCode
from covis.engines.tensorrt.plans.cache import EngineInfo, PlanCache, Write
from covis.engines.tensorrt.plans.record import EngineOptions, Range, records
from covis.engines.tensorrt.plans.trust import own_plans, read_plan
from tests.engines.mini_bundle import flip
from tests.engines.tensorrt.cache_worker import PIECE
from tests.engines.tensorrt.plan_inputs import plan_inputs
from tests.file_limit import file_limit
from tests.places import ROOT

WHOLE = hashlib.sha256(PIECE + PIECE).hexdigest()


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a list of own plans for the test instead of the user's."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "plans"


WORKER = "tests.engines.tensorrt.cache_worker"


def worker(folder: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            WORKER,
            str(folder),
            str(log),
            str(seconds),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def never(write: Write) -> None:
    raise AssertionError("built again")


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".locks")


def test_second_call_finds_it(folder: Path) -> None:
    cache = PlanCache(folder)
    record, built = cache.get(
        plan_inputs(), lambda write: write(b"plan"), lambda plan: EngineInfo(plan.read_text(), 7)
    )
    assert built and record.activation_memory == 7 and record.build_seconds >= 0
    again, built = cache.get(plan_inputs(), never)
    assert not built and again == record == next(records(folder))
    assert record.file == f"encoder-{plan_inputs().key()[:24]}.plan"
    assert bytes(read_plan(record, folder)) == b"plan"
    assert record.layers is not None
    name, digest = record.layers
    assert (folder / name).read_bytes() == b"plan"  # examined before it had its name
    assert hashlib.sha256(b"plan").hexdigest() == digest
    _, built = cache.get(plan_inputs(), lambda write: write(b"new"), force=True)
    assert built and (folder / record.file).read_bytes() == b"new"


def test_every_input_makes_another_plan() -> None:
    changes = [
        {"stage": "saliency"}, {"precision": "float16"}, {"graph": "3" * 64},
        {"weights": "3" * 64}, {"plugin": "3" * 64}, {"tensorrt": "10.15.1.30"}, {"cuda": "12.9"},
        {"driver_branch": "570"}, {"gpu": "NVIDIA H100"}, {"compute_capability": (9, 1)},
        {"profile": {"N": Range(min=1, opt=8, max=16)}}, {"profile": {}},
        {"options": EngineOptions(builder_optimization_level=4)},
        {"options": EngineOptions(workspace=1)}, {"options": EngineOptions(refit=True)},
        {"options": EngineOptions(strip_weights=True)}, {"options": EngineOptions(tf32=True)},
        {"options": EngineOptions(tactic_shared_memory=1)},
        {"options": EngineOptions(hardware_compatibility="ampere+")},
        {"options": EngineOptions(profiling_verbosity="none")},
    ]  # fmt: skip
    keys = {plan_inputs(**change).key() for change in [{}, *changes]}
    assert len(keys) == len(changes) + 1
    one, two = Range(min=1, opt=1, max=1), Range(min=2, opt=2, max=2)
    assert (
        plan_inputs(profile={"M": one, "K": two}).key()
        == plan_inputs(profile={"K": two, "M": one}).key()
    )


def test_eight_processes_build_once(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    workers = [worker(folder, log, 0.5) for _ in range(8)]
    answers = [process.communicate(timeout=60)[0].split() for process in workers]
    assert [process.returncode for process in workers] == [0] * 8
    assert {digest for digest, _ in answers} == {WHOLE}
    assert sorted(built for _, built in answers) == ["False"] * 7 + ["True"]
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["begun", "done"]
    assert own_plans() == {WHOLE}


def test_killed_builder_leaves_no_plan_and_no_lock(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = worker(folder, log, 60)
    while not log.is_file():
        time.sleep(0.02)
        assert first.poll() is None
    second = worker(folder, log, 0.01)
    time.sleep(0.3)  # time to start and to wait for the lock
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.communicate(timeout=60)[0].split() == [WHOLE, "True"]
    assert [name.rpartition(".")[2] for name in visible(folder)] == ["plan", "json", "layers"]
    assert len(visible(folder)) == 3  # the killed one's partial file is gone too
    assert bytes(read_plan(next(records(folder)), folder)) == PIECE + PIECE


def test_failing_build_leaves_nothing(folder: Path) -> None:
    cache = PlanCache(folder)
    for failure in (ValueError("x"), KeyboardInterrupt()):

        def failing(write: Write, failure: BaseException = failure) -> None:
            write(PIECE)
            raise failure

        with pytest.raises(type(failure)):
            cache.get(plan_inputs(), failing)
        assert visible(folder) == []
    record, _ = cache.get(plan_inputs(), lambda write: write(b"plan"))
    with pytest.raises(ValueError, match="x"):
        cache.get(plan_inputs(), lambda write: (_ for _ in ()).throw(ValueError("x")), force=True)
    assert cache.find(plan_inputs()) == record  # a failed renewal costs nothing


def test_full_disk(folder: Path) -> None:
    wrong = r"\.plan: cannot be written .File too large.*; check fr"
    with file_limit(1 << 16), pytest.raises(CovisError, match=wrong):
        PlanCache(folder).get(plan_inputs(), lambda write: write(PIECE))
    assert visible(folder) == []
    PlanCache(folder).get(plan_inputs(), lambda write: write(b"small"))


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that anyone may enter (the tests' own are closed to others)."""
    place = Path(tempfile.mkdtemp(prefix="covis-cache-"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


def test_read_only_folder(public_folder: Path) -> None:
    cache = PlanCache(public_folder / "plans")
    record, _ = cache.get(plan_inputs(), lambda write: write(b"plan"))
    for path in (cache.folder, cache.folder / ".locks"):
        path.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # rights do not bind root
    try:
        assert cache.get(plan_inputs(), never) == (record, False)
        with pytest.raises(CovisError, match=r"cannot be written .Permission.*--cache") as caught:
            cache.get(plan_inputs(graph="3" * 64), never)
    finally:
        os.seteuid(user)
        for path in (cache.folder, cache.folder / ".locks"):
            path.chmod(0o755)
    assert caught.value.code == ExitCode.ENVIRONMENT


def test_damaged_plan_or_record_is_built_anew(folder: Path) -> None:
    messages: list[str] = []
    cache = PlanCache(folder, messages.append)
    record, _ = cache.get(plan_inputs(), lambda write: write(b"plan"))
    plan, described = folder / record.file, cache.stem(plan_inputs()).with_suffix(".plan.json")
    damages = [
        (lambda: flip(plan, 1), "is not what was built (sha256 differs)"),
        (lambda: plan.write_bytes(b"pl"), "has 2 bytes where its record says 4"),
        (plan.unlink, f"{plan}: is missing"),
        (lambda: described.write_text("{"), "is no valid record of a plan at the top"),
        (lambda: described.write_text(record.model_copy(update={"graph": "4" * 64})
            .model_dump_json()), "is the record of another plan"),
        (lambda: described.write_text(record.model_copy(update={"file": "../x"})
            .model_dump_json()), "leaves the bundle"),
    ]  # fmt: skip
    for damage, words in damages:
        damage()
        messages.clear()
        again, built = cache.get(plan_inputs(), lambda write: write(b"plan"))
        assert built and again.sha256 == record.sha256 and len(messages) >= 1
        assert messages[0].startswith("built anew: ") and words in messages[0], messages
    assert bytes(read_plan(record, folder)) == b"plan"


def test_tampered_plan_is_not_read(folder: Path) -> None:
    record, _ = PlanCache(folder).get(plan_inputs(), lambda write: write(b"plan"))
    plan = folder / record.file
    flip(plan, 0)
    with pytest.raises(CovisError, match=r"is not what was built .sha256 differs.; build it here"):
        read_plan(record, folder)
    plan.write_bytes(b"plan, and more")
    with pytest.raises(CovisError, match="has 14 bytes where its record says 4"):
        read_plan(record, folder)
    # A forger can also write a record that fits; but not the user's own list.
    forged = record.model_copy(
        update={"size": 14, "sha256": hashlib.sha256(b"plan, and more").hexdigest()}
    )
    with pytest.raises(CovisError, match="was not built by this user, and a plan is executable"):
        read_plan(forged, folder)
    assert bytes(read_plan(forged, folder, [forged.sha256])) == b"plan, and more"
    target = folder / "elsewhere"
    plan.rename(target)
    plan.symlink_to(target)
    with pytest.raises(CovisError, match="is a symbolic link"):
        read_plan(record, folder)


def test_list_of_own_plans(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    PlanCache(folder).get(plan_inputs(), lambda write: write(b"plan"))
    mine = next((tmp_path / "state").rglob("own-plans.txt"))
    mine.chmod(0o666)
    with pytest.raises(CovisError, match=r"can be written by others.*chmod 600"):
        own_plans()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))  # cannot be a folder
    with pytest.raises(CovisError, match="cannot be read"):
        own_plans()
    record, _ = PlanCache(folder, messages.append).get(
        plan_inputs(graph="5" * 64), lambda write: write(b"other")
    )
    assert messages == [
        "your list of own plans cannot be written: "
        f"run this one with --trust-plan {record.sha256}"
    ]  # fmt: skip
