"""Folders that are written atomically, whatever happens while they are filled."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from covis.engines.errors import CovisError, ExitCode
from covis.engines.system.atomic import (
    atomic_file,
    atomic_folder,
    check_file_target,
    check_folder_target,
)
from covis.engines.system.files import copy_file
from tests.file_limit import file_limit


def test_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_folder(target) as scratch:
        (scratch / "sub").mkdir()
        (scratch / "sub" / "file").write_text("x")
        assert scratch.parent == tmp_path and not target.exists()
    assert (target / "sub" / "file").read_text() == "x"
    assert list(tmp_path.iterdir()) == [target]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o777 & ~mask  # mkdtemp alone gives 0700


@pytest.mark.parametrize("failure", [ValueError("x"), KeyboardInterrupt(), OSError(28, "full")])
@pytest.mark.parametrize("name", ["out", "made/on/the/way/out"])
def test_vanishes_on_failure(tmp_path: Path, failure: BaseException, name: str) -> None:
    with pytest.raises((type(failure), CovisError)), atomic_folder(tmp_path / name) as scratch:
        (scratch / "file").write_text("x")
        raise failure
    assert list(tmp_path.iterdir()) == []


def test_existing_parents_stay(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError), atomic_folder(tmp_path / "mine" / "new" / "out"):
        raise ValueError
    assert [p.name for p in tmp_path.rglob("*")] == ["mine"]
    with atomic_folder(tmp_path / "mine" / "new" / "out"):
        pass
    assert (tmp_path / "mine" / "new" / "out").is_dir()


@pytest.mark.parametrize("force", [False, True])
def test_failure_keeps_the_old(tmp_path: Path, force: bool) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine").write_text("old")
    with pytest.raises((CovisError, ValueError)), atomic_folder(target, force=force):
        raise ValueError
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == ["out", "out/mine"]


def test_force_replaces(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()
    with atomic_folder(target, force=True) as scratch:
        (scratch / "new").touch()
        assert (target / "old").exists()
    assert [p.name for p in target.iterdir()] == ["new"] and list(tmp_path.iterdir()) == [target]


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check_folder_target` refuses before the work what `atomic_folder` refuses."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path / "folder")
    for target, force, code, message in [
        (tmp_path, False, ExitCode.USER, "already exists; choose another name or pass --force"),
        (tmp_path / "file", False, ExitCode.USER, "is a file, not a folder"),
        (tmp_path / "file", True, ExitCode.USER, "is a file, not a folder"),
        (tmp_path / "file" / "out", False, ExitCode.USER, "file: is a file, not a folder"),
        (tmp_path / "link", False, ExitCode.USER, "is a link, and is not replaced"),
        (tmp_path / "link", True, ExitCode.USER, "is a link, and is not replaced"),
        (tmp_path / "dangling", False, ExitCode.USER, "is a link, and is not replaced"),
        (Path("/"), True, ExitCode.USER, "/: is no name for a new folder; name a folder to create"),
        (Path(), True, ExitCode.USER, "is no name for a new folder"),
        (Path(".."), True, ExitCode.USER, "is no name for a new folder"),
        (tmp_path / "folder" / "..", True, ExitCode.USER, "is no name for a new folder"),
        (tmp_path / "a\0b", False, ExitCode.USER, "holds a NUL character"),
        (Path("/proc"), True, ExitCode.USER, "is a mount point, and cannot be replaced; name a"),
        (Path("/proc/covis/out"), False, ExitCode.ENVIRONMENT, "cannot be written"),
        (tmp_path / ("x" * 256), False, ExitCode.ENVIRONMENT, "cannot be written .File name too"),
        (tmp_path / ("x" * 256 + "/out"), False, ExitCode.ENVIRONMENT, "File name too long"),
    ]:
        for refused in (check_folder_target, lambda *a, **k: atomic_folder(*a, **k).__enter__()):
            with pytest.raises(CovisError, match=message) as caught:
                refused(target, force=force)
            assert caught.value.code == code and "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_full_place_is_refused_before_the_work(tmp_path: Path) -> None:
    for check in (check_folder_target, check_file_target):
        with file_limit(0), pytest.raises(CovisError, match=r"cannot be written .File too large"):
            check(tmp_path / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="rights do not bind root")
def test_parent_without_rights(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(CovisError, match=r"Permission denied.*; check free space and rights"):
            atomic_folder(tmp_path / "out").__enter__()
    finally:
        tmp_path.chmod(0o755)


def test_target_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(CovisError, match="another run wrote it"), atomic_folder(target):
        target.mkdir()
        (target / "theirs").touch()
    assert [p.name for p in target.iterdir()] == ["theirs"] and list(tmp_path.iterdir()) == [target]


def test_write_that_fails(tmp_path: Path) -> None:
    with (
        file_limit(1 << 16),
        pytest.raises(CovisError, match=r"out: cannot be written .File too large") as caught,
        atomic_folder(tmp_path / "out") as scratch,
    ):
        (scratch / "big").write_bytes(bytes(1 << 20))
    assert caught.value.code == ExitCode.ENVIRONMENT and list(tmp_path.iterdir()) == []


def test_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    for data in (b"", b"x", os.urandom(100_000)):
        source.write_bytes(data)
        copy_file(source, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == data

    def refusing(*_: object) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refusing)
    copy_file(source, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == source.read_bytes()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(OSError, match="No space left"):
        copy_file(source, tmp_path / "third")


@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "nowhere/file"])
def test_only_an_ordinary_file_is_replaced(tmp_path: Path, kind: str) -> None:
    """A rename by root onto /dev/null would replace it by a regular file."""
    target = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(target)
    elif kind == "link":
        target.symlink_to(tmp_path / "elsewhere")
    elif kind == "folder":
        target.mkdir()
    before = sorted(tmp_path.iterdir())
    refusal = r"not replaced|is a folder|no such folder"
    with pytest.raises(CovisError, match=refusal), atomic_file(target) as stream:
        stream.write(b"x")
    with pytest.raises(CovisError, match=refusal):
        check_file_target(target)
    assert sorted(tmp_path.iterdir()) == before
    assert not before or not target.is_file()


def test_files_respect_the_umask(tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        with atomic_file(tmp_path / "file") as stream:
            stream.write(b"x")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
