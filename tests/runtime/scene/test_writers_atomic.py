"""Output folders: whole or absent; foreign files are never replaced."""

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

from covis.engines.errors import CovisError, ExitCode
from covis.runtime.scene.writers import check_output, npz, write
from covis.runtime.scene.writers.options import Format, OutputOptions
from covis.runtime.scene.writers.space import check_space
from tests.file_limit import file_limit
from tests.places import ROOT
from tests.runtime.scene.random_scene import random_scene

HEAD = """
import resource, sys
from pathlib import Path
from tests.runtime.scene.random_scene import random_scene
from covis.engines.errors import CovisError
from covis.runtime.scene.writers import OutputOptions, write
"""


def only(*formats: Format) -> OutputOptions:
    return OutputOptions(formats=formats)


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ("obj",)}, "--formats: 'obj' is no output format; use images, masks"),
        ({"formats": ()}, "--formats: no output format given; use some of images"),
        ({"conf_percentile": 101.0}, r"--conf-percentile: 101.0 is not in \[0, 100\]"),
        ({"conf_percentile": float("nan")}, "--conf-percentile: nan is not in"),
        ({"max_points": -1}, "--max-points: -1 is negative; 0 writes all"),
        ({"depth_format": "tiff"}, "--depth-format: 'tiff' is unknown; use png or exr"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CovisError, match=message) as caught:
        OutputOptions(**options)
    assert caught.value.code == ExitCode.USER


def test_existing_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for force, message in (
        (False, "already exists; choose"),
        (True, "'mine.txt', which covis did"),
    ):
        with pytest.raises(CovisError, match=message) as caught:
            write(random_scene(), out, only("ply"), force=force)
        assert caught.value.code == ExitCode.USER and str(out) in str(caught.value)
    assert (out / "mine.txt").read_text() == "mine" and list(tmp_path.iterdir()) == [
        tmp_path / "out"
    ]


def test_force_replaces_only_what_covis_wrote(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(random_scene(), out, only("ply", "colmap"))
    write(random_scene(), out, only("npz"), force=True)
    assert sorted(p.name for p in out.iterdir()) == ["scene.json", "scene.npz"]
    (out / "notes").mkdir()
    (out / "notes" / "a.txt").write_text("mine")
    with pytest.raises(CovisError, match=r"'notes/a\.txt', which covis did not write"):
        write(random_scene(), out, only("npz"), force=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_force_replaces_a_folder_of_an_older_version(tmp_path: Path) -> None:
    """Its COLMAP model stood in colmap/sparse/0; its list of files is what counts."""
    out = tmp_path / "out"
    old = ["points.ply", *(f"colmap/sparse/0/{n}.bin" for n in ("cameras", "images", "points3D"))]
    (out / "colmap/sparse/0").mkdir(parents=True)
    for name in old:
        (out / name).write_bytes(b"old")
    (out / "scene.json").write_text(json.dumps({"views": ["a"], "covis_files": old}))
    write(random_scene(), out, only("colmap"), force=True)
    assert sorted(p.name for p in out.iterdir()) == ["images", "scene.json", "sparse"]


@pytest.mark.parametrize("kind", ["pipe", "device", "deep"])
def test_a_summary_that_cannot_be_read(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if kind == "pipe":
        os.mkfifo(out / "scene.json")
    elif kind == "device":
        (out / "scene.json").symlink_to("/dev/zero")
    else:
        (out / "scene.json").write_text("[" * 100_000)
    with pytest.raises(CovisError, match=r"'scene\.json', which covis did not write"):
        check_output(out, force=True)


def test_a_place_that_cannot_be_made_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CovisError, match=r"file: is a file, not a folder"):
        check_output(tmp_path / "file" / "out")
    with file_limit(0), pytest.raises(CovisError, match="cannot be written") as caught:
        check_output(tmp_path / "out")
    assert caught.value.code == ExitCode.ENVIRONMENT


def test_file_link_and_working_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name, message in (("file", "is a file"), ("link", "is a link")):
        with pytest.raises(CovisError, match=message):
            check_output(tmp_path / name, force=True)
    monkeypatch.chdir(tmp_path)
    for name in (".", "/"):
        with pytest.raises(CovisError, match="is no name for a new folder"):
            write(random_scene(), name, only("ply"), force=True)
    for name in ("file/out", "x" * 300, "a\0b"):
        with pytest.raises(CovisError, match=r"not a folder|name too long|NUL") as caught:
            write(random_scene(), name, only("ply"))
        assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_failure_in_the_middle_leaves_nothing_or_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(random_scene(), tmp_path / "out", only("ply"))
    before = (tmp_path / "out/points.ply").read_bytes()

    def fail(*_: object) -> list[Path]:
        raise KeyboardInterrupt

    monkeypatch.setattr(npz, "write_npz", fail)
    for folder, force in (("out", True), ("new", False)):
        with pytest.raises(KeyboardInterrupt):
            write(random_scene(), tmp_path / folder, only("ply", "npz"), force=force)
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
    assert (tmp_path / "out/points.ply").read_bytes() == before


@pytest.mark.parametrize(
    "name", ["images", "depth", "exr", "npz", "ply", "glb", "colmap", "saliency"]
)
def test_full_disk(tmp_path: Path, name: str) -> None:
    code = """
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    name = sys.argv[2]
    exr = OutputOptions(formats=("depth",), depth_format="exr")
    write(random_scene(), sys.argv[1], exr if name == "exr" else OutputOptions(formats=(name,)))
except CovisError as error:
    print(error.code, error)
"""
    out, err = python(code, str(tmp_path / "out"), name).communicate(timeout=60)
    assert out.startswith("3 ") and out.count("\n") == 1 and str(tmp_path / "out") in out, err
    assert "check free space" in out
    assert list(tmp_path.iterdir()) == []


def test_really_full_disk(tmp_path: Path) -> None:
    """On a file system of its own, where this user may mount one."""
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mount.returncode:
        pytest.skip(f"no tmpfs for a test: {mount.stderr.strip()}")
    try:
        with pytest.raises(CovisError, match="No space left on device") as caught:
            write(random_scene(), tmp_path / "out")
        assert caught.value.code == ExitCode.ENVIRONMENT
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_too_small_a_disk_is_named_before_the_work(tmp_path: Path) -> None:
    """Ten thousand million views of 518 x 518 need 32 exabytes."""
    out = tmp_path / "new" / "out"
    with pytest.raises(CovisError, match=r"scene\.npz alone needs 32198\d+\.\d GB, and .* GB") as e:
        check_space(out, 10**10, (518, 518), OutputOptions())
    assert e.value.code == ExitCode.ENVIRONMENT and str(out) in str(e.value)
    check_space(out, 10**10, (518, 518), only("ply", "images"))
    check_space(out, 10, (518, 518), OutputOptions())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupt_from_outside(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C cleans up; what a killed process of the API leaves, the next call removes."""
    code = """
import time
from covis.runtime.scene.writers import npz
def slow(folder):
    (folder.place / "scene.npz").write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
npz.write_npz = slow
write(random_scene(), sys.argv[1], OutputOptions(formats=("npz",)))
"""
    process = python(code, str(tmp_path / "out"))
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    assert len(list(tmp_path.iterdir())) == 2  # the temporary folder and its lock
    process.send_signal(number)
    start = time.monotonic()
    process.communicate(timeout=20)
    assert time.monotonic() - start < 20 and process.returncode != 0
    assert (list(tmp_path.iterdir()) == []) == (number == signal.SIGINT)
    check_output(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
