"""The command line: overview, help, arguments that are wrong, `inspect` and `doctor`."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from covis.cli import COMMANDS, run_command
from covis.engines.errors import CovisError, environment_error, numerics_error, user_error
from covis.engines.system.signals import Terminated
from tests.engines.mini_bundle import edit, flip
from tests.places import ROOT

Captured = pytest.CaptureFixture[str]


def fails(capsys: Captured, arguments: list[str], code: int, *words: str) -> None:
    """The command ends with `code` and one line on standard error that holds `words`."""
    assert run_command(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("covis: ") and err.endswith("\n") and err.count("\n") == 1
    for word in words:
        assert word in err


def command(*arguments: str | Path, **options: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}  # type: ignore[dict-item]
    return subprocess.Popen(
        [sys.executable, "-m", "covis", *map(str, arguments)],
        text=True, cwd=ROOT, env=environment, **{"stderr": subprocess.PIPE, **options},
    )  # type: ignore[call-overload, no-any-return]  # fmt: skip


def python(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip


def test_overview(capsys: Captured) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        assert run_command(arguments) == 0
        out, err = capsys.readouterr()
        assert not err
        for name, entry in COMMANDS.items():
            assert any(line.split() == [name, *entry.summary.split()] for line in out.splitlines())


def test_version(capsys: Captured) -> None:
    import covis

    assert run_command(["--version"]) == 0
    assert capsys.readouterr().out == f"covis {covis.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command(capsys: Captured, name: str) -> None:
    assert run_command([name, "--help"]) == 0
    out, err = capsys.readouterr()
    assert not err and f"usage: covis {name}" in out
    # The overview repeats the first line of the options' docstring, to load nothing for it.
    assert COMMANDS[name].summary in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bogus"], ["bogus: no such command; use one of export, run"]),
        (["--bogus"], ["--bogus: no such command"]),
        (["ru\nn"], [r"ru\nn: no such command"]),
        (["run"], ["Missing from covis run", "--out", "; see `covis run --help`"]),
        (["run", "b", "p"], ["--out", "; see `covis run --help`"]),
        (["run", "b", "p", "--out", "o", "--chunk", "x"], ["--chunk", "'x'"]),
        (["run", "b", "p", "--out", "o", "--chunk", "0"], ["--chunk: 0 is below 1; use 1"]),
        (["run", "b", "p", "--out", "o", "--threads", "-1"], ["--threads: -1 is negative"]),
        (["run", "b", "p", "--out", "o", "--formats", "obj"], ["obj"]),
        (["run", "b", "p", "--out", "o", "--bogus"], ["--bogus"]),
        (["run", "nowhere", "p", "--out", "o"], ["nowhere: no such bundle folder"]),
        (["export", "dust3r", "--out", "o"], ["dust3r", "'vggt', 'pi3', 'mapanything'"]),
        (["export", "vggt", "--out", "o", "--height", "57"],
         ["--height: 57 is no positive multiple of 14; use 56 or 70"]),
        (["export", "vggt", "--out", "o", "--width", "0"], ["--width: 0 is no positive multiple"]),
        (["export", "vggt", "--out", "o", "--width", "-14"], ["--width: -14 is no positive"]),
        (["export", "vggt", "--out", "o", "--height", "28000"], ["--height: 28000 is above"]),
        (["export", "vggt", "--out", "o", "--tau", "1.5"], ["--tau: 1.5 is not in [0, 1]; give"]),
        (["export", "vggt", "--out", "o", "--tau", "nan"], ["--tau: nan is not in [0, 1]; give"]),
        (["export", "vggt", "--out", "o", "--layers", "9x"], ["--layers: '9x' is no layer"]),
        (["export", "vggt", "--out", "o", "--dtype", "int4"], ["int4"]),
        (["inspect"], ["Missing from covis inspect"]),
        (["inspect", "nowhere"], ["nowhere: no such bundle folder; make one"]),
        (["doctor", "--bogus"], ["--bogus"]),
    ],
)  # fmt: skip
def test_wrong_arguments(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    arguments: list[str], words: list[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    fails(capsys, arguments, 2, *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (user_error("is bad", where="a\nb", hint="mend it"), 2, r"covis: a\nb: is bad; mend it"),
        (environment_error("no space"), 3, "covis: no space"),
        (numerics_error("NaN", where="w"), 4, "covis: w: NaN"),
        (KeyboardInterrupt(), 130, "covis: interrupted; nothing was left half-written"),
        (Terminated(signal.SIGTERM), 143, "covis: ended by SIGTERM; nothing was left half-written"),
        (Terminated(signal.SIGHUP), 129, "covis: ended by SIGHUP; nothing was left half-written"),
        (MemoryError(), 3, "covis: out of memory; use fewer views or a smaller --chunk"),
        (OSError(5, "Input/output error", "/x\n"), 3, r"covis: /x\n: Input/output error; check"),
        (BrokenPipeError(32, "Broken pipe"), 3, "covis: Broken pipe; check"),
        (BlockingIOError(11, "Try again"), 3, "covis: Try again; check"),
        (RuntimeError("can't start new thread"), 3, "covis: no more threads or processes can be"),
    ],
)
def test_exit_codes(
    capfd: Captured, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    def failing(options: object) -> None:
        raise error

    monkeypatch.setattr("covis.commands.doctor.doctor", failing)
    monkeypatch.setattr("covis.cli.discard_output", lambda: None)  # it would silence the tests
    assert run_command(["doctor"]) == code
    err = capfd.readouterr().err
    assert err.startswith(line) and err.count("\n") == 1


def test_faults_of_ours_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("covis.commands.doctor.doctor", failing)
    with pytest.raises(ZeroDivisionError):
        run_command(["doctor"])


def test_inspect(capsys: Captured, mini_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # no cell of the table is broken
    assert run_command(["inspect", str(mini_bundle)]) == 0
    out, err = capsys.readouterr()
    assert not err
    for words in ("vggt, 4 global layers, 5 special tokens", "28 x 14 pixels", "tau=0.9",
                  "similarity [M, M]", "not verified", "all 3 files"):  # fmt: skip
        assert words in out
    assert "computes  saliency: layers 0-3 saliency=0.9\n" in out
    edit(mini_bundle, lambda manifest: manifest.update(sparsity={}))
    assert run_command(["inspect", str(mini_bundle)]) == 0
    assert (
        "computes  dense (up to 50 views nothing is left out); light (more than 50 views, up to "
        "250): layers 0-1 anchors=10, 2-3 dense; anchors (more than 250 views): layers 0-1 "
        "anchors=10, 2-3 anchors=25\n"
    ) in capsys.readouterr().out


def test_inspect_json(capsys: Captured, mini_bundle: Path) -> None:
    from covis.engines.bundle.manifest import Manifest

    assert run_command(["inspect", str(mini_bundle), "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["pixel_rule"]["width"] == 28
    assert Manifest.model_validate_json(out)


def test_inspect_of_a_damaged_bundle(capsys: Captured, mini_bundle: Path) -> None:
    flip(mini_bundle / "encoder.onnx", 20)
    fails(capsys, ["inspect", str(mini_bundle)], 2, "encoder.onnx: is not what was exported")


def test_doctor(capsys: Captured) -> None:
    import onnxruntime

    assert run_command(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert not err and f"ONNX Runtime {onnxruntime.__version__}" in out
    assert all(line.startswith(("yes  ", " -   ")) for line in out.splitlines() if line[:1] != " ")


def test_doctor_without_onnxruntime(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run_command(["doctor"]) == 3
    out, err = capsys.readouterr()
    assert "NO   ONNX Runtime is not installed; pip install 'covis[cpu]'" in out
    assert err == "covis: this machine cannot run bundles; repair what is marked NO\n"


def test_doctor_with_a_broken_library(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lib.so").write_bytes(b"\x7fELF, but no more")
    monkeypatch.setattr(
        "covis.engines.system.native.find_library", lambda name: tmp_path / "lib.so"
    )
    assert run_command(["doctor"]) == 3
    assert "NO   the CPU kernel cannot be loaded" in capsys.readouterr().out


def test_reader_that_leaves_is_no_error(mini_bundle: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for arguments in (["inspect", mini_bundle], ["inspect", mini_bundle, "--json"], ["--help"]):
        process = command(*arguments, stdout=writing)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
    os.close(writing)


_FOLDERS = (["run", "nowhere", "p"], ["triton", "nowhere"], ["export", "vggt"], ["demo"])
_RESULTS = (["eval", "nowhere", "co3d", "d"], ["sweep", "nowhere", "co3d", "d", "--no-pictures"])
_FILES = (["compare", "nowhere", "p", "--out"], ["bench", "nowhere", "--exportTimes"])


@pytest.mark.parametrize(
    ("place", "code", "words"),
    [
        ("/", 2, "name"),
        (".", 2, "name"),
        ("..", 2, "name"),
        ("x" * 256, 3, "File name too long"),
        ("file/out", 2, "file: is a file, not a folder"),
        ("/proc/covis/out", 3, "cannot be written"),
    ],
)
def test_places_that_cannot_be_written_are_refused_first(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    place: str, code: int, words: str,
) -> None:  # fmt: skip
    """Before bundle and photos, which do not exist, are looked for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for arguments in _FOLDERS:
        fails(capsys, [*arguments, "--out", place], code, words)
        fails(capsys, [*arguments, "--out", place, "--force"], code, words)
    for arguments in _RESULTS:
        known = words if words != "name" else "exists and holds no"
        fails(capsys, [*arguments, "--out", place], code, known)
    for arguments in _FILES:
        known = words if words != "name" else "is a folder; name a file"
        if place in ("file/out", "/proc/covis/out"):
            code, known = 3, "cannot be written (no such folder)"
        fails(capsys, [*arguments, place], code, known)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_clean_up(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Also where a second signal arrives while the first one's leftovers are removed."""
    script = """
import os, shutil, sys, time
from pathlib import Path
from covis.commands import doctor
from covis.cli import main
from covis.engines.system.atomic import atomic_folder
remove = shutil.rmtree
def impatient(*arguments, **options):
    os.kill(os.getpid(), int(sys.argv[2]))
    remove(*arguments, **options)
shutil.rmtree = impatient
def slow(options):
    with atomic_folder(Path(sys.argv[1])) as scratch:
        (scratch / "weights").write_bytes(bytes(1000))
        print("writing", flush=True)
        time.sleep(60)
doctor.doctor = slow
main(["doctor"])
"""
    process = python(script, tmp_path / "deep" / "out", str(int(number)))
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err.count("\n")) == (code, 1) and "half-written" in err
    assert list(tmp_path.iterdir()) == []


def test_ignored_signals_stay_ignored(tmp_path: Path) -> None:
    """`nohup covis run ... &` survives the end of its terminal."""
    script = """
import os, signal
from covis.commands import doctor
from covis.cli import main
signal.signal(signal.SIGHUP, signal.SIG_IGN)
doctor.doctor = lambda options: os.kill(os.getpid(), signal.SIGHUP)
main(["doctor"])
"""
    process = python(script)
    assert (process.wait(timeout=20), process.stderr and process.stderr.read()) == (0, "")


def test_no_threads_left(tmp_path: Path) -> None:
    """OpenBLAS prints its own lines, and sends SIGINT; it is not the user who interrupted."""

    def no_room_for_a_stack() -> None:
        resource.setrlimit(resource.RLIMIT_STACK, (1 << 47, resource.RLIM_INFINITY))

    if resource.getrlimit(resource.RLIMIT_STACK)[1] != resource.RLIM_INFINITY:
        pytest.skip("the stack has a hard limit here, so threads cannot be made to fail")
    for blas_threads in ("2", "1"):
        process = command(
            "demo", "--views", "2", "--out", tmp_path / "out",
            stdout=subprocess.PIPE, preexec_fn=no_room_for_a_stack,
            env={"OPENBLAS_NUM_THREADS": blas_threads},
        )  # fmt: skip
        _, err = process.communicate(timeout=60)
        assert process.returncode == 3 and "Traceback" not in err and "interrupted" not in err
        assert err.splitlines()[-1].startswith("covis: no more threads or processes"), err
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_reader_that_leaves_does_not_end_the_work(tmp_path: Path, unbuffered: str) -> None:
    """`covis run ... 2>&1 | head -1` still writes the scene."""
    script = """
import sys
from pathlib import Path
from rich.console import Console
from covis.cli import main
from covis.commands import doctor
from covis.commands.run import progress_bar
from covis.engines.system.atomic import atomic_folder
def work(options):
    with progress_bar(Console(stderr=True)) as progress, atomic_folder(Path(sys.argv[1])) as folder:
        for step in range(100):
            progress("stage", step, 100)
            print("x" * 1000, flush=step == 50)
            print("a warning", file=sys.stderr)
        (folder / "scene").touch()
doctor.doctor = work
main(["doctor"])
"""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "out"], check=False, cwd=ROOT,
        stdout=writing, stderr=writing, env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    os.close(writing)
    assert done.returncode == 0 and (tmp_path / "out" / "scene").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written(mini_bundle: Path) -> None:
    with Path("/dev/full").open("w") as full:
        process = command("inspect", mini_bundle, "--json", stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert err == "covis: No space left on device; check free space and rights\n"


@pytest.mark.parametrize(("stream", "code"), [("<&-", 0), (">&-", 0), ("2>&-", 0), ("2>full", 0)])
def test_closed_streams(mini_bundle: Path, tmp_path: Path, stream: str, code: int) -> None:
    """A file opened later must not get a closed stream's number, nor the exit code lie."""
    (tmp_path / "full").symlink_to("/dev/full")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for bundle, expected in ((mini_bundle, code), (tmp_path / "nowhere", 2)):
        line = f'"{sys.executable}" -m covis inspect "{bundle}" {stream}'
        done = subprocess.run(
            line, shell=True, check=False, cwd=tmp_path, env=environment, capture_output=True
        )
        assert done.returncode == expected, done.stderr
        assert b"Traceback" not in done.stderr


def test_output_in_ascii(mini_bundle: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    arguments = [sys.executable, "-m", "covis", "inspect", str(mini_bundle)]
    environment["COLUMNS"] = "40"  # words cut short end in an ellipsis
    done = subprocess.run(arguments, check=False, cwd=ROOT, env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"") and rb"\u2026" in done.stdout


def test_the_error_type_is_public() -> None:
    import covis

    with pytest.raises(covis.CovisError, match="no such bundle folder"):
        covis.load("nowhere")
    assert covis.CovisError is CovisError
