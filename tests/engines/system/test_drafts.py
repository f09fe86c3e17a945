"""Leftovers of killed writers are removed by the next one; drafts of living writers stay."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from covis.engines.errors import CovisError, ExitCode
from covis.engines.system import atomic
from covis.engines.system.atomic import atomic_file, atomic_folder, check_folder_target
from covis.engines.system.drafts import is_draft, new_draft_file, remove_leftovers
from tests.places import ROOT

WRITE_FOLDER = """
with atomic_folder(Path(sys.argv[1]), force=True) as scratch:
    (scratch / "new").write_text("half")
    print("writing", flush=True)
    sys.stdin.readline()
"""
WRITE_FILE = """
with atomic_file(Path(sys.argv[1])) as stream:
    stream.write(b"half")
    print("writing", flush=True)
    sys.stdin.readline()
"""
DIE_BETWEEN_RENAMES = """
from covis.engines.system import atomic
atomic.exchange = lambda first, second: False
rename = Path.rename
def once(self, to):
    rename(self, to)
    if to.name.endswith(".old"):
        os.kill(os.getpid(), signal.SIGKILL)
Path.rename = once
with atomic_folder(Path(sys.argv[1]), force=True) as scratch:
    (scratch / "new").touch()
"""
Start = Callable[[str, Path], subprocess.Popen[str]]


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Start:
    """Start a process that writes a target, and wait until it is at it."""

    def begin(code: str, target: Path) -> subprocess.Popen[str]:
        head = "import os, signal, sys\nfrom pathlib import Path\n"
        head += "from covis.engines.system.atomic import atomic_file, atomic_folder\n"
        process = subprocess.Popen(
            [sys.executable, "-c", head + code, str(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        request.addfinalizer(lambda: (process.kill(), process.communicate()))
        assert process.stdout is not None
        process.stdout.readline()
        return process

    return begin


def content(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def test_killed_writer_of_a_folder(tmp_path: Path, start: Start) -> None:
    target = tmp_path / "out"
    kill(start(WRITE_FOLDER, target))
    assert len(list(tmp_path.iterdir())) == 2
    check_folder_target(target)  # before the work of the next run, not only after it
    assert list(tmp_path.iterdir()) == []
    kill(start(WRITE_FOLDER, target))
    with atomic_folder(target) as scratch:
        (scratch / "mine").touch()
    assert content(tmp_path) == ["out", "out/mine"]


def test_killed_writer_of_a_file(tmp_path: Path, start: Start) -> None:
    target = tmp_path / "[file].json"  # no pattern
    kill(start(WRITE_FILE, target))
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_file(target) as stream:
        stream.write(b"whole")
    assert content(tmp_path) == [target.name] and target.read_bytes() == b"whole"


def test_killed_between_the_renames(tmp_path: Path, start: Start) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()
    assert start(DIE_BETWEEN_RENAMES, target).wait() == -signal.SIGKILL
    assert not target.exists()
    with pytest.raises(CovisError, match="already exists"):
        check_folder_target(target)
    assert content(tmp_path) == ["out", "out/old"]


@pytest.mark.parametrize("code", [WRITE_FOLDER, WRITE_FILE])
def test_living_writer_goes_on(tmp_path: Path, start: Start, code: str) -> None:
    target = tmp_path / "out"
    process = start(code, target)
    remove_leftovers(target)
    drafts = [path.name for path in tmp_path.iterdir()]
    assert drafts and all(is_draft(name, "out") for name in drafts)
    _, err = process.communicate("\n", timeout=20)
    assert (process.returncode, err) == (0, "") and list(tmp_path.iterdir()) == [target]


def test_two_writers_of_one_folder(tmp_path: Path, start: Start) -> None:
    """The first to finish wins; the other is told so, and leaves nothing."""
    target = tmp_path / "out"
    process = start(WRITE_FOLDER.replace(", force=True", ""), target)
    with atomic_folder(target) as scratch:
        (scratch / "first").touch()
    _, err = process.communicate("\n", timeout=20)
    line = f"CovisError: {target}: already exists, another run wrote it meanwhile; choose another"
    assert process.returncode == 1 and line in err.splitlines()[-1]
    assert content(tmp_path) == ["out", "out/first"]


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with atomic_file(target) as first, atomic_file(target) as second:
        first.write(b"first")
        second.write(b"second, and longer")
    assert target.read_bytes() == b"first" and list(tmp_path.iterdir()) == [target]


def test_locks_of_the_dead_without_a_folder(tmp_path: Path) -> None:
    handle, lock = new_draft_file(tmp_path / "out", ".lock")
    remove_leftovers(tmp_path / "out")
    assert lock.exists()
    os.close(handle)
    remove_leftovers(tmp_path / "out.other")
    assert lock.exists()
    remove_leftovers(tmp_path / "out")
    assert not lock.exists()


def test_draft_removed_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may take a new draft for a leftover before its writer has locked it."""
    flock, removed = fcntl.flock, []

    def late(handle: int, operation: int) -> None:
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].unlink()
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with atomic_file(tmp_path / "file") as stream:
        stream.write(b"x")
    assert removed and (tmp_path / "file").read_bytes() == b"x"


def test_no_locks_on_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    """Nothing is removed, because its writer may be alive, and writing works."""
    target = tmp_path / "out"
    kill(start(WRITE_FOLDER, target))
    left = content(tmp_path)

    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with atomic_folder(target):
        pass
    assert content(tmp_path) == sorted([*left, "out"])


def test_things_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    os.mkfifo(tmp_path / ".out.aaaaaaaa.lock")
    (tmp_path / ".out.bbbbbbbb.lock").symlink_to(tmp_path / "precious")
    (tmp_path / ".out.cccccccc.partial").mkdir()
    (tmp_path / ".out.dddddddd.old").mkdir()
    (tmp_path / ".out.longer-token.partial").touch()
    before = content(tmp_path)
    with atomic_folder(tmp_path / "out"):
        pass
    assert content(tmp_path) == sorted([*before, "out"])
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("name", ["x" * 250, "ö" * 125, "a b", "-n"])
def test_names_as_long_as_the_file_system_takes(tmp_path: Path, name: str, start: Start) -> None:
    check_folder_target(tmp_path / name)
    kill(start(WRITE_FOLDER, tmp_path / name))
    with atomic_folder(tmp_path / name):
        pass
    with atomic_file(tmp_path / name / name) as stream:
        stream.write(b"x")
    assert content(tmp_path) == [name, f"{name}/{name}"]


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_at_the_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool, number: int
) -> None:
    """A signal before, between or after the renames leaves the new folder, whole."""
    rename, exchange = Path.rename, atomic.exchange

    def noisy_rename(self: Path, to: Path) -> Path:
        signal.raise_signal(number)
        result = rename(self, to)
        signal.raise_signal(number)
        return result

    def noisy_exchange(first: Path, second: Path) -> bool:
        signal.raise_signal(number)
        return exchanges and exchange(first, second)

    monkeypatch.setattr(Path, "rename", noisy_rename)
    monkeypatch.setattr(atomic, "exchange", noisy_exchange)
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), atomic_folder(target, force=True) as scratch:
            (scratch / "new").touch()
    finally:
        signal.signal(number, before)
    assert content(tmp_path) == ["out", "out/new"]


@pytest.mark.parametrize("failing", [(".partial",), (".partial", ".old")])
def test_second_rename_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: tuple[str, ...]
) -> None:
    """Where names cannot be exchanged, the old folder returns, at the latest in the next run."""
    target = tmp_path / "out"
    rename = Path.rename

    def fail(self: Path, to: Path) -> Path:
        if self.suffix in failing and not to.exists():
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, to)

    target.mkdir()
    (target / "old").touch()
    monkeypatch.setattr(atomic, "exchange", lambda first, second: False)
    monkeypatch.setattr(Path, "rename", fail)
    with (
        pytest.raises(CovisError, match="Input/output error") as caught,
        atomic_folder(target, force=True),
    ):
        pass
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert target.exists() == (".old" not in failing)
    monkeypatch.undo()
    remove_leftovers(target)
    assert content(tmp_path) == ["out", "out/old"]
