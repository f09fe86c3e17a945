"""`covis run` of a collection in parts: what it prints, writes, keeps, and refuses."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from covis.cli import run_command
from covis.synthetic.photos import demo_scene, write_photos
from tests.file_limit import file_limit
from tests.places import DEMO

Captured = pytest.CaptureFixture[str]
PARTS = ("--part-views", "8", "--ordered", "--formats", "ply", "npz")


def run(photos: Path, out: Path, *more: str) -> int:
    return run_command(["run", str(DEMO), str(photos), "--out", str(out), *(more or PARTS)])


def cameras(out: Path) -> np.ndarray:
    with np.load(out / "scene.npz") as scene:
        return np.asarray(scene["extrinsics"])


def test_one_scene_is_written_and_the_parts_are_removed(
    collection_photos: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert run(collection_photos, tmp_path / "out") == 0
    out, err = capsys.readouterr()
    assert "20 photos in 4 parts of " in err or "20 photos in 5 parts of " in err
    assert "joined by" in err
    assert str(tmp_path / "out/points.ply") in out.splitlines()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    summary = json.loads((tmp_path / "out/scene.json").read_text())
    assert len(summary["views"]) == 20
    links = summary["provenance"]["collection"]["links"]
    assert {link["kind"] for link in links} >= {"cut"}
    assert all(link["state"] in ("confirmed", "unconfirmed", "dropped") for link in links)


def test_few_photos_are_one_run(collection_photos: Path, tmp_path: Path, capsys: Captured) -> None:
    assert run(collection_photos, tmp_path / "out", "--part-views", "20", "--formats", "npz") == 0
    assert "20 views: dense" in capsys.readouterr().err
    assert "collection" not in json.loads((tmp_path / "out/scene.json").read_text())["provenance"]


def test_memory_decides_how_large_a_part_is(
    collection_photos: Path, tmp_path: Path, capsys: Captured
) -> None:
    """Half a GiB is left to the process; a run of the demo's bundle takes some MiB for a view."""
    options = ("--memory", "0.52", "--keep-parts", "--formats", "npz")
    assert run(collection_photos, tmp_path / "out", *options) == 0
    assert "20 photos in " in capsys.readouterr().err
    record = json.loads((tmp_path / "out.parts/run.json").read_text())
    assert 4 <= record["--part-views"] < 20


def test_two_scenes_in_one_folder_are_two_scenes(
    collection_photos: Path, tmp_path: Path, capsys: Captured
) -> None:
    photos = tmp_path / "photos"
    write_photos(photos / "room", demo_scene(16, 56, 56, family="room"))
    shutil.copytree(collection_photos, photos / "objects")
    options = ("--part-views", "8", "--formats", "npz")
    assert run(photos, tmp_path / "out", *options) == 0
    assert "2 scenes that nothing connects, of 20, 16 views" in capsys.readouterr().err
    for folder, name, count in (("out", "objects", 20), ("out/scene-2", "room", 16)):
        views = json.loads((tmp_path / folder / "scene.json").read_text())["views"]
        assert len(views) == count and all(view.startswith(name) for view in views)
    assert run(photos, tmp_path / "out", *options, "--force") == 0  # covis wrote all of it


def test_a_full_disk_loses_nothing_that_is_finished(
    collection_photos: Path, tmp_path: Path, capsys: Captured
) -> None:
    with file_limit(700_000):  # a part's depth fits, the scene's does not
        assert run(collection_photos, tmp_path / "out") == 3
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("covis: ") and "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["out.parts"]
    finished = sorted((tmp_path / "out.parts/parts").iterdir())
    before = [path.stat().st_mtime_ns for path in finished]
    assert finished
    stamps = {path: path.stat().st_ino for path in finished}
    assert run(collection_photos, tmp_path / "out", *PARTS, "--keep-parts") == 0
    assert {path: path.stat().st_ino for path in finished} == stamps
    assert [path.stat().st_mtime_ns for path in finished] == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_run_goes_on_and_gives_the_same_scene(
    collection_photos: Path, tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "covis", "run", str(DEMO), str(collection_photos), "--out",
               str(tmp_path / "out"), *PARTS]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    parts = tmp_path / "out.parts/parts"
    while process.poll() is None and not list(parts.glob("0*")):
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode in (-number, 128 + number)
    assert not (tmp_path / "out").exists() and list(parts.glob("0*"))
    assert run(collection_photos, tmp_path / "out") == 0
    assert run(collection_photos, tmp_path / "whole") == 0
    np.testing.assert_array_equal(cameras(tmp_path / "out"), cameras(tmp_path / "whole"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "whole"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--part-views", "3"], "--part-views: 3 is not in [4, "),
        (["--part-views", "9", "--memory", "2"], "both say how large a part is"),
        (["--memory", "-1"], "--memory: -1 GiB is no size of a memory"),
        (["--memory", "0.1"], "--memory: 0.1 GiB are too little for parts of 4 views"),
        (["--memory", "2", "--backend", "cuda"], "--memory: there is no estimate for cuda"),
        (["--part-views", "8", "--overlap", "1"], "--overlap: 1 is not in [2, 4]"),
        (["--workers", "2"], "--workers and --ray: run the parts of a collection; add"),
        (["--overlap", "4"], "concern a collection that is cut into parts; add --part-views"),
    ],
)  # fmt: skip
def test_options_that_contradict_each_other(
    collection_photos: Path, tmp_path: Path, capsys: Captured, options: list[str], line: str
) -> None:
    assert run(collection_photos, tmp_path / "out", *options) in (2, 3)
    err = capsys.readouterr().err
    assert line in err.splitlines()[-1] and not (tmp_path / "out").exists()


def test_parts_of_another_run_are_refused(
    collection_photos: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert run(collection_photos, tmp_path / "out", *PARTS, "--keep-parts") == 0
    options = ("--part-views", "9", "--ordered", "--formats", "npz", "--force")
    assert run(collection_photos, tmp_path / "out", *options) == 2
    assert "with other --part-views (8, now 9); give --restart" in capsys.readouterr().err
    assert run(collection_photos, tmp_path / "out", *options, "--restart") == 0
