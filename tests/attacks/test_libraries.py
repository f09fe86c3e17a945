"""Native libraries that somebody else could have written: none of them is loaded."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from covis.cli import run_command
from covis.commands import doctor
from covis.engines.errors import CovisError, ExitCode
from covis.engines.system import own_files
from covis.engines.system.native import (
    KERNELS_LIBRARY,
    ORT_LIBRARY,
    PLUGIN_LIBRARY,
    find_kernels_of,
    find_library,
)
from tests.places import ROOT

ELSEWHERE = 54_321  # number of a user that does not exist
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "lib" / PLUGIN_LIBRARY
    path.parent.mkdir(mode=0o755)
    path.write_bytes(b"library")
    path.chmod(0o755)
    return path


def refused(library: Path, words: str) -> None:
    with pytest.raises(CovisError, match=words) as caught:
        find_library(PLUGIN_LIBRARY, library)
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert "\n" not in str(caught.value) and "install it anew" in caught.value.hint


def test_own_files_are_found(library: Path) -> None:
    assert find_library(PLUGIN_LIBRARY, library) == library.resolve()


def test_file_that_everybody_may_write(library: Path) -> None:
    library.chmod(0o757)
    refused(library, f"because it can be written by everybody; chmod o-w {library}")


def test_folders_that_everybody_may_write(library: Path) -> None:
    library.parent.chmod(0o777)
    refused(library, f"its folder {library.parent} can be written by everybody; chmod o-w")
    library.parent.chmod(0o1777)  # as /tmp: others can add files, but not replace this one
    assert find_library(PLUGIN_LIBRARY, library) is not None
    library.parent.chmod(0o755)
    library.parent.parent.chmod(0o707)
    refused(library, f"its folder {library.parent.parent} can be written by everybody")


def test_links_are_followed_first(library: Path, tmp_path: Path) -> None:
    (tmp_path / "safe").mkdir(mode=0o755)
    link = tmp_path / "safe" / PLUGIN_LIBRARY
    link.symlink_to(library)
    assert find_library(PLUGIN_LIBRARY, link) == library.resolve()
    library.chmod(0o666)
    refused(link, "it can be written by everybody")


@is_root
def test_file_and_folder_of_another_user(library: Path) -> None:
    os.chown(library, ELSEWHERE, 0)
    refused(library, f"it belongs to user {ELSEWHERE}; chown ")
    os.chown(library, 0, 0)
    os.chown(library.parent, ELSEWHERE, 0)
    refused(library, f"its folder {library.parent} belongs to user {ELSEWHERE}")


@is_root
def test_the_packages_owner_is_trusted(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an environment that a colleague shares, its Python code is the colleague's too."""
    code = tmp_path / "code.py"
    code.touch()
    os.chown(code, ELSEWHERE, 0)
    monkeypatch.setattr(own_files, "_HERE", code)
    os.chown(library, ELSEWHERE, 0)
    assert find_library(PLUGIN_LIBRARY, library) is not None


@is_root
def test_groups_with_and_without_others(library: Path) -> None:
    import grp
    import pwd

    library.chmod(0o775)
    os.chown(library, 0, ELSEWHERE)  # as where everybody has a group of one's own (umask 002)
    assert find_library(PLUGIN_LIBRARY, library) is not None
    other = next((user for user in pwd.getpwall() if user.pw_uid != 0 and user.pw_gid != 0), None)
    assert other is not None and grp.getgrgid(other.pw_gid)
    os.chown(library, 0, other.pw_gid)
    refused(library, f"it can be written by {other.pw_name}; chmod g-w {library}")


def test_kernels_beside_the_plugin(library: Path) -> None:
    kernels = library.with_name(KERNELS_LIBRARY)
    kernels.write_bytes(b"kernels")
    assert find_kernels_of(library) == kernels
    kernels.chmod(0o666)
    with pytest.raises(CovisError, match=r"libcovis_kernels.so: is not loaded, because it can be"):
        find_kernels_of(library)


@pytest.fixture
def writable_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The CPU kernel, in a package where everybody may write it."""
    root = tmp_path / "package"
    (root / "lib").mkdir(parents=True)
    (root / "a" / "b").mkdir(parents=True)
    path = root / "lib" / ORT_LIBRARY
    path.write_bytes(b"no library")
    path.chmod(0o666)
    monkeypatch.setattr("covis.engines.system.native.__file__", str(root / "a" / "b" / "native.py"))
    return path


def test_run_and_doctor_say_so(
    writable_kernel: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.places import DEMO

    assert run_command(["run", str(DEMO), str(photos), "--out", str(tmp_path / "out")]) == 3
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{writable_kernel}: is not loaded, because it can be written by everybody" in line
    assert not (tmp_path / "out").exists()
    findings = [finding for finding in doctor.examine() if "CPU kernel" in finding.text]
    assert [finding.ok for finding in findings] == [False]
    assert "chmod o-w" in findings[0].text


_PROBE = """
#include "tensorrt/kernels.cc"
extern "C" const char* probe() { return covis::trt::kernels().error.c_str(); }
"""
_KERNELS = """
extern "C" int covis_abi_version() { return 1; }
extern "C" void covis_attention_workspace() {}
extern "C" void covis_attention_launch() {}
extern "C" void covis_select_workspace() {}
extern "C" void covis_select_launch() {}
extern "C" void covis_farthest_workspace() {}
extern "C" void covis_farthest_launch() {}
"""


def compiled(source: str, target: Path) -> Path:
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C++ compiler")
    target.parent.mkdir(parents=True, exist_ok=True)
    file = target.with_suffix(".cc")
    file.write_text(source)
    command = [compiler, "-std=c++17", "-shared", "-fPIC", f"-I{ROOT / 'plugins'}", str(file)]
    subprocess.run([*command, "-o", str(target), "-ldl"], check=True, timeout=120)
    return target


def test_the_plugin_does_not_search_for_its_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = compiled(_PROBE, tmp_path / "plugin" / "libprobe.so")
    kernels = compiled(_KERNELS, tmp_path / "search" / KERNELS_LIBRARY)
    code = (
        "import ctypes, sys; probe = ctypes.CDLL(sys.argv[1]).probe; "
        "probe.restype = ctypes.c_char_p; print(probe().decode())"
    )

    def error() -> str:
        command = [sys.executable, "-c", code, str(plugin)]
        environment = {**os.environ, "LD_LIBRARY_PATH": str(kernels.parent)}
        done = subprocess.run(
            command,
            env=environment,
            cwd=kernels.parent,
            capture_output=True,
            check=True,
            timeout=60,
        )
        return done.stdout.decode().strip()

    assert error().startswith("libcovis_kernels.so must lie beside libcovis_trt.so")
    shutil.copy(kernels, plugin.parent)
    assert error() == ""
    assert ctypes.CDLL(str(kernels)).covis_abi_version() == 1
