"""`covis batch`: each scene as `covis run` writes it, resumed, on workers, and every failure."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from covis.cli import run_command
from covis.commands.demo import demo_bundle
from tests.places import ROOT

Captured = pytest.CaptureFixture[str]
FEW = ("--formats", "npz", "--threads", "1")


def write_scene(folder: Path, seed: int, views: int = 2) -> Path:
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for view in range(views):
        blocks = random.integers(0, 256, (9, 12, 3), np.uint8)
        Image.fromarray(blocks).resize((84, 63)).save(folder / f"{view}.png")
    return folder


@pytest.fixture
def captures(tmp_path: Path) -> Path:
    """A folder with the photos of three scenes."""
    for name, seed in (("alley", 0), ("barn", 1), ("court", 2)):
        write_scene(tmp_path / "captures" / name, seed)
    return tmp_path / "captures"


def batch(captures: Path, out: Path, *more: str) -> int:
    command = ["batch", str(demo_bundle()), str(captures), "--each", "--out", str(out), *FEW]
    return run_command([*command, *more])


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "batch.json").read_text())
    return found


def statuses(out: Path) -> dict[str, str]:
    with (out / "batch.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["scene"], r["status"]) for r in rows] == [
        (r["scene"], r["status"]) for r in report(out)["scenes"]
    ]
    return {row["scene"]: row["status"] for row in rows}


def arrays(folder: Path) -> dict[str, Any]:
    with np.load(folder / "scene.npz") as file:
        return {name: file[name] for name in ("depth", "extrinsics", "intrinsics", "images")}


def check_equal(first: Path, second: Path) -> None:
    one, other = arrays(first), arrays(second)
    assert len(one["depth"]) == 2
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])


def last_line(capsys: Captured) -> str:
    err = capsys.readouterr().err
    assert "Traceback" not in err
    lines = err.splitlines()
    assert [line for line in lines if line.startswith("covis: ")] == lines[-1:]
    return lines[-1]


def test_end_to_end_with_a_failure_and_again(
    captures: Path, tmp_path: Path, capsys: Captured
) -> None:
    out, bad = tmp_path / "out", captures / "barn" / "1.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:60])
    (captures / "empty").mkdir()
    assert batch(captures, out) == 2
    printed = capsys.readouterr()
    err = printed.err.splitlines()
    assert err[-1] == ("covis: 2 of 4 scenes failed; the reasons are above; run the same command "
                       "again to retry only these")  # fmt: skip
    assert any(line.startswith(f"barn, {bad}: ") for line in err)
    assert any(
        line.startswith(f"empty, {captures / 'empty'}: holds no photo; put ") for line in err
    )
    assert printed.out.splitlines()[-2:] == [str(out / "batch.json"), str(out / "batch.csv")]
    failed = {"alley": "done", "barn": "failed", "court": "done", "empty": "failed"}
    assert statuses(out) == failed
    assert sorted(p.name for p in out.iterdir()) == ["alley", "batch.csv", "batch.json", "court"]
    rows = {row["scene"]: row for row in report(out)["scenes"]}
    assert rows["barn"]["error"].startswith(f"barn, {bad}: ") and rows["barn"]["views"] is None
    alley = rows["alley"]
    assert (alley["views"], alley["selector"], alley["attention_work"]) == (2, "dense", 1.0)
    assert alley["seconds"] > 0 and alley["error"] is None
    assert alley["peak_bytes"] > 1 << 20 or sys.platform != "linux"

    # Each scene is what `covis run` writes.
    command = ["run", str(demo_bundle()), str(captures / "alley"), "--out", str(tmp_path / "one")]
    assert run_command([*command, *FEW]) == 0
    check_equal(out / "alley", tmp_path / "one")
    places = (out / "alley", tmp_path / "one")
    ours, theirs = (json.loads((place / "scene.json").read_text()) for place in places)
    assert ours["provenance"].pop("batch")["seconds"] == alley["seconds"]
    assert ours == theirs

    # The same command does what is missing, and nothing else.
    bad.write_bytes(good)
    (captures / "empty").rmdir()
    stamp = (out / "alley" / "scene.npz").stat().st_mtime_ns
    capsys.readouterr()
    assert batch(captures, out) == 0
    printed = capsys.readouterr()
    assert "2 of 3 scenes are done already" in printed.err
    assert statuses(out) == {"alley": "done before", "barn": "done", "court": "done before"}
    assert (out / "alley" / "scene.npz").stat().st_mtime_ns == stamp
    again = {row["scene"]: row for row in report(out)["scenes"]}["alley"]
    assert again | {"status": "done"} == alley
    words = [line.split() for line in printed.out.splitlines()]
    assert words[0] == ["scene", "views", "selector", "attention", "s", "peak", "GiB", "status"]
    assert words[2][:4] == ["barn", "2", "dense", "100.0%"] and words[2][-1] == "done"

    # Other options and changed photos are never mixed with them.
    assert batch(captures, out, "--selector", "anchors", "--anchors", "1") == 2
    line = last_line(capsys)
    assert f"{out / 'alley'}: holds a scene of another run (sparsity.selector, " in line
    assert line.endswith("pass --force to replace it, or choose another --out")
    os.utime(captures / "court" / "0.png", ns=(1, 1))
    assert batch(captures, out) == 2
    assert "court: holds a scene of another run (its photos have changed); " in last_line(capsys)
    assert statuses(out)["barn"] == "done"
    assert batch(captures, out, "--force") == 0
    assert statuses(out) == {"alley": "done before", "barn": "done before", "court": "done"}
    (out / "barn" / "mine.txt").write_text("precious")
    assert batch(captures, out, "--force", "--selector", "dense", "--probes", "3") == 2
    assert "barn: holds 'mine.txt', which covis did not write" in last_line(capsys)


def test_workers_of_which_one_is_killed(captures: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "out"
    before = set(multiprocessing.active_children())

    def kill() -> None:
        deadline = time.monotonic() + 120
        while not (started := set(multiprocessing.active_children()) - before):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.2)  # it has its scene, and is importing
        victim = next(iter(started)).pid
        assert victim is not None
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert batch(captures, out, "--workers", "2") == 0
    killer.join()
    assert "its worker died (SIGKILL, perhaps out of memory); it is done again" in (
        capsys.readouterr().err
    )
    assert batch(captures, tmp_path / "here") == 0
    for name in ("alley", "barn", "court"):
        check_equal(out / name, tmp_path / "here" / name)
    assert statuses(out) == dict.fromkeys(("alley", "barn", "court"), "done")


def test_interrupted(tmp_path: Path) -> None:
    """Workers write folders themselves: what they leave half-written is removed."""
    for seed in range(12):
        write_scene(tmp_path / "captures" / f"s{seed:02d}", seed)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "covis", "batch", str(demo_bundle()),
               str(tmp_path / "captures"), "--each", "--out", str(out), "--workers", "2",
               "--threads", "1"]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        start_new_session=True, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not list(out.glob(".s*.partial")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGTERM)
    printed, err = process.communicate(timeout=60)
    assert process.returncode == 143 and not printed and "Traceback" not in err
    assert err.splitlines()[-1] == "covis: ended by SIGTERM; nothing was left half-written"
    left = {path.name for path in out.iterdir()} - {"batch.json", "batch.csv"}
    assert all(not name.startswith(".") for name in left) and len(left) < 12
    assert all((out / name / "scene.json").is_file() for name in left)
    assert list(statuses(out)) == [f"s{seed:02d}" for seed in range(12)]


def test_scenes_that_cannot_be_told_apart_or_found(
    captures: Path, tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "out"
    twin = write_scene(tmp_path / "other" / "ALLEY", 5)
    table = write_scene(tmp_path / "other" / "batch.json", 6)
    photo = captures / "alley" / "0.png"
    for places, each, line in (
        ([captures / "alley", twin], False,
         f"{twin}: would be written to the same place as {captures / 'alley'}; rename one of"),
        ([table], False, f"{table}: would be written to the same place as the table of the batch"),
        ([captures / "none"], False, "none: no such folder; check the path"),
        ([captures / "none"], True, "none: no such folder; with --each, give a folder"),
        ([photo], False, "0.png: is no folder of photos and no video; a scene is a folder"),
        ([photo], True, "0.png: is no folder; with --each, give a folder"),
        ([captures / "alley"], True, "alley: has no folder in it; leave out --each for a single"),
        ([Path("/")], False, "/: has no name for a scene; name a folder below it"),
    ):  # fmt: skip
        command = ["batch", str(demo_bundle()), *map(str, places), "--out", str(out)]
        assert run_command(command + ["--each"] * each) == 2
        assert line in last_line(capsys)
        assert not out.exists()
    assert run_command(["batch", str(demo_bundle()), "--out", str(out)]) == 2
    assert last_line(capsys) == "covis: SCENES: no scene is given; give folders of photos"


def test_an_output_that_holds_something_else(
    captures: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert batch(captures, captures) == 2
    assert "captures: exists and holds no batch; choose another --out" in last_line(capsys)
    out = captures / "out"
    out.mkdir()
    (out / "batch.json").write_text("{}")
    (out / "barn").mkdir()
    (out / "barn" / "mine.txt").write_text("precious")
    assert batch(captures, out) == 2  # the folder of the results is no scene itself
    assert "barn: already exists; choose another name or pass --force" in last_line(capsys)
    assert [p.name for p in (out / "barn").iterdir()] == ["mine.txt"]


def test_a_damaged_summary_is_no_finished_scene(captures: Path, tmp_path: Path) -> None:
    from covis.commands.batch import BatchCommand, make_job
    from covis.commands.batch_job import done_row
    from covis.commands.batch_scenes import find_scenes

    out = tmp_path / "out"
    job, _ = make_job(BatchCommand(demo_bundle(), (captures,), out))
    scene = find_scenes([captures], out, each=True)[0]
    (out / scene.name).mkdir(parents=True)
    whole = {"options": job.options(), "photos": "0", "seconds": 1, "peak_bytes": 1}
    for text in ("", "[]", "[" * 100_000, "{}", '{"provenance": []}', '{"provenance": {}}',
                 '{"provenance": {"batch": 1}}',
                 json.dumps({"views": [], "provenance": {"batch": whole}})):  # fmt: skip
        (out / scene.name / "scene.json").write_text(text)
        assert done_row(job, scene) is None
