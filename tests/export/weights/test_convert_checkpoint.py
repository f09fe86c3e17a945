"""Pickled checkpoints to safetensors: exact numbers, and no code of the pickle runs."""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from covis.cli import run_command
from covis.engines.errors import CovisError, ExitCode
from covis.export.models import load_model
from covis.export.weights import confine, unpickle
from covis.export.weights.convert_checkpoint import convert_checkpoint
from tests.file_limit import file_limit
from tests.tiny_vggt import CONFIG, random_weights

Captured = pytest.CaptureFixture[str]
Save = Callable[[Any, Path], None]


def convert_here(source: Path, out: Path, key: str | None = None) -> unpickle.Report:
    """Convert in this process, without its limits: what the child does, and quicker."""
    with out.open("wb") as stream:
        return unpickle.main(source, stream.fileno(), key)


def legacy(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def test_a_training_checkpoint_becomes_the_weights_of_a_model(
    tmp_path: Path, capsys: Captured
) -> None:
    weights = load_file(random_weights(tmp_path))
    state = OrderedDict((f"module.{key}", value) for key, value in weights.items())
    source, out = tmp_path / "epoch 3.pt", tmp_path / "converted.safetensors"
    torch.save({"epoch": 3, "model": state, "optimizer": {"lr": 1e-4, "state": {}}}, source)
    assert run_command(["convert-checkpoint", str(source), str(out)]) == 0
    text, err = capsys.readouterr()
    assert not text and err.splitlines() == [
        f"{out}: {len(weights)} tensors, {out.stat().st_size / 1e6:,.1f} MB",
        "  left out: epoch (int), optimizer (dict)",
    ]
    loaded = load_model("vggt", CONFIG, out).state_dict()
    assert all(torch.equal(loaded[key], weights[key]) for key in loaded)
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == {
            "format": "pt",
            "source": "epoch 3.pt",
            "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
            "torch": torch.__version__,
        }
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "converted.safetensors", "epoch 3.pt", "random.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("save", [torch.save, legacy], ids=["zip", "legacy"])
def test_types_views_and_shared_tensors_keep_their_numbers(tmp_path: Path, save: Save) -> None:
    base = torch.randn(4, 6)
    state: dict[str, Any] = {
        "whole": base,
        "shared": base,
        "rows": base[1:3],
        "turned": base.t(),
        "flipped": base[:, ::2],
        "parameter": nn.Parameter(torch.randn(3)),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        **{
            str(kind): torch.arange(5).to(kind)
            for kind in (torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool,
                         torch.float8_e4m3fn)
        },
    }  # fmt: skip
    if save is legacy:  # torch itself reads no FP8 in that format
        del state["torch.float8_e4m3fn"]
    save(state, tmp_path / "a.pt")
    report = convert_here(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert report.get("tensors") == len(state) and report.get("left_out") == []
    loaded = load_file(tmp_path / "a.safetensors")
    assert loaded.keys() == state.keys()
    for name, value in state.items():
        got = loaded[name]
        assert got.dtype == value.dtype and got.shape == value.shape, name
        assert torch.equal(got.double(), value.detach().double()), name


A = {"a": torch.ones(2)}
NESTINGS: dict[str, tuple[Any, str | None]] = {
    "plain": (A, None),
    "Lightning": ({"state_dict": A, "epoch": torch.tensor(3)}, None),
    "twice": ({"model": {"state_dict": A, "config": "text"}}, None),
    "key": ({"ema": A, "model": {"b": torch.zeros(1)}}, "ema"),
    "key of two": ({"model": A, "state_dict": {"b": torch.zeros(1)}}, "model"),
}


@pytest.mark.parametrize("kind", NESTINGS)
def test_the_dictionary_of_weights_is_found(tmp_path: Path, kind: str) -> None:
    saved, key = NESTINGS[kind]
    torch.save(saved, tmp_path / "a.pt")
    report = convert_here(tmp_path / "a.pt", tmp_path / "a.safetensors", key)
    assert "error" not in report
    assert load_file(tmp_path / "a.safetensors")["a"].tolist() == [1, 1]


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("save", [torch.save, legacy], ids=["zip", "legacy"])
def test_a_malicious_pickle_runs_nothing(tmp_path: Path, capsys: Captured, save: Save) -> None:
    mark, source, out = tmp_path / "mark", tmp_path / "a.pt", tmp_path / "a.safetensors"
    save({"model": A, "evil": Command(f"touch '{mark}'")}, source)
    torch.load(source, weights_only=False)
    assert mark.exists(), "the pickle does run code where nobody prevents it"
    mark.unlink()
    assert run_command(["convert-checkpoint", str(source), str(out)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "Traceback" not in err
    assert "(it asks for posix.system); nothing was run; where it was written, save" in err
    assert not mark.exists() and not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def circle() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["model"] = value
    return value


def repeated() -> dict[str, Tensor]:
    return {"a": torch.zeros(1).expand(1 << 40)}


REFUSED: dict[str, tuple[Any, str | None, str]] = {
    "namespace": ({"args": argparse.Namespace(), "model": A}, None, "asks for argparse.Namespace"),
    "module": (nn.Linear(2, 2), None, "asks for torch.nn.modules.linear.Linear"),
    "list": ([torch.zeros(1)], None, "no dictionary of weights but list"),
    "nothing": ({}, None, "has no tensors by name, but nothing"),
    "text": ({"model": "x", "epoch": 3}, None, "has no tensors by name, but model (str), epoch"),
    "other name": ({"net": A}, None, "net (dict of 1 tensors); name the dictionary of weights"),
    "two names": ({"model": A, "state_dict": A}, None, "has weights under state_dict and model"),
    "no such key": ({"net": A}, "ema", "has no 'ema'; it has net (dict of 1 tensors)"),
    "key of text": ({"net": "x", "b": A}, "net", "no dictionary of weights but str"),
    "numbers as names": ({3: torch.zeros(1)}, None, "has no"),
    "complex": ({"a": torch.zeros(1, dtype=torch.complex64)}, None, "a (complex64)"),
    "sparse": ({"a": torch.eye(2).to_sparse()}, None, "a (sparse or quantized)"),
    "meta": ({"a": torch.zeros(1, device="meta")}, None, "a (on the device meta)"),
    "itself": (circle(), None, "has no tensors by name, but model (dict)"),
    "repeated": (repeated(), None, "repeats its numbers: 4,398.0 GB of tensors"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_dictionary_of_tensors_is_named(tmp_path: Path, kind: str) -> None:
    saved, key, message = REFUSED[kind]
    torch.save(saved, tmp_path / "a.pt")
    report = convert_here(tmp_path / "a.pt", tmp_path / "a.safetensors", key)
    assert message in report.get("error", "") + "; " + report.get("hint", "")
    assert "\n" not in report["error"] and len(report["error"]) < 600 and report["code"] == 2
    assert not (tmp_path / "a.safetensors").read_bytes()


def archive(files: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", how) as target:
        for name, data in files.items():
            target.writestr(f"a/{name}", data)
    return stream.getvalue()


def test_damaged_and_hostile_files_are_one_line(tmp_path: Path) -> None:
    torch.save({"a": torch.randn(1000)}, tmp_path / "good.pt")
    good = (tmp_path / "good.pt").read_bytes()
    deep = b"\x80\x02" + b"]" * 200_000 + b"."
    for name, data in {
        "empty": b"",
        "text": b"hello" * 99,
        "photo": b"\xff\xd8\xff\xe0" + bytes(500),
        "cut": good[: len(good) // 2],
        "start": good[:4],
        "flipped": good[:200] + bytes(64) + good[264:],
        "no pickle": archive({"b": b"x"}),
        "bomb": archive({"data.pkl": bytes(1 << 20)}, zipfile.ZIP_DEFLATED),
        "large pickle": archive({"data.pkl": bytes((64 << 20) + 1)}),
        "deep": archive({"data.pkl": deep, "version": b"3\n"}),
        "plain pickle": pickle.dumps({"a": 1}),
        "endless": pickle.PROTO + b"\x02" + b"N" * 10_000,
    }.items():
        source = tmp_path / f"{name}.pt"
        source.write_bytes(data)
        report = convert_here(source, tmp_path / "out")
        assert report.get("code") == 2, name
        assert "\n" not in report["error"] and len(report["error"]) < 500, name


def test_what_the_command_refuses_before_it_starts(tmp_path: Path) -> None:
    source, out = tmp_path / "a.pt", tmp_path / "a.safetensors"
    torch.save(A, source)
    save_file(A, tmp_path / "renamed.pt")
    os.mkfifo(tmp_path / "pipe.pt")
    out.write_bytes(b"mine")
    free = tmp_path / "free.safetensors"
    for arguments, message in (
        ((tmp_path / "absent.pt", free), "no such file"),
        ((tmp_path, free), "is no file"),
        ((tmp_path / "pipe.pt", free), "is no file"),
        ((tmp_path / "renamed.pt", free), r"is a safetensors file already; rename"),
        ((source, tmp_path / "b.pt"), "is no name of a safetensors file"),
        ((source, out), "already exists; choose another name or pass --force"),
    ):
        with pytest.raises(CovisError, match=message) as caught:
            convert_checkpoint(*arguments)
        assert caught.value.code == ExitCode.USER
    assert out.read_bytes() == b"mine" and not free.exists()
    assert convert_checkpoint(source, out, force=True).tensors == 1
    assert load_file(out).keys() == {"a"}


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    source, out = tmp_path / "a.pt", tmp_path / "a.safetensors"
    torch.save({"a": torch.randn(1 << 18)}, source)
    with (
        file_limit(1 << 16),
        pytest.raises(CovisError, match="the new file cannot be written") as e,
    ):
        convert_checkpoint(source, out)
    assert e.value.code == ExitCode.ENVIRONMENT
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


CHILD = """
import sys
from pathlib import Path
from covis.export.weights.confine import confine
confine(1000)
try:
    {code}
except (PermissionError, MemoryError) as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import socket; socket.create_connection(('127.0.0.1', {port}))", "PermissionError"),
        ("import os; os.system('true')", "PermissionError"),
        ("import subprocess; subprocess.run(['true'])", "PermissionError"),
        ("open(sys.argv[1], 'w')", "PermissionError"),
        ("Path(sys.argv[1]).touch()", "PermissionError"),
        ("import os; os.remove(sys.argv[1])", "PermissionError"),
        ("import ctypes; ctypes.CDLL('libm.so.6')", "PermissionError"),
        ("bytearray(64 << 30)", "MemoryError"),
    ],
)
def test_the_process_is_confined(tmp_path: Path, code: str, expected: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = CHILD.replace("{code}", code.replace("{port}", str(server.getsockname()[1])))
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "new")],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    assert done.stdout.strip() == expected
    assert not list(tmp_path.iterdir())


def test_time_without_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the processor time of the process, and by the clock."""
    source = tmp_path / "a.pt"
    torch.save(A, source)
    for program in ("import time; time.sleep(60)", "import os; os.kill(os.getpid(), 24)"):
        (tmp_path / "endless.py").write_text(program)
        monkeypatch.setattr(
            "covis.export.weights.convert_checkpoint._COMMAND",
            (sys.executable, str(tmp_path / "endless.py")),
        )
        monkeypatch.setattr(
            "covis.export.weights.convert_checkpoint.CONVERSION", argparse.Namespace(most=1)
        )
        start = time.perf_counter()
        with pytest.raises(CovisError, match="takes more time than a checkpoint of its size may"):
            convert_checkpoint(source, tmp_path / "a.safetensors")
        assert time.perf_counter() - start < 20
        assert not (tmp_path / "a.safetensors").exists()


def test_an_interrupt_ends_the_process_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(A, tmp_path / "a.pt")
    (tmp_path / "sleeps.py").write_text(
        f"import os, pathlib, time; pathlib.Path({str(tmp_path / 'pid')!r}).write_text("
        "str(os.getpid())); time.sleep(60)"
    )
    monkeypatch.setattr(
        "covis.export.weights.convert_checkpoint._COMMAND",
        (sys.executable, str(tmp_path / "sleeps.py")),
    )

    def interrupt() -> None:
        while not (tmp_path / "pid").exists():
            time.sleep(0.02)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(tmp_path / "a.pt", tmp_path / "a.safetensors")
    thread.join()
    status = Path("/proc", (tmp_path / "pid").read_text(), "stat")
    deadline = time.monotonic() + 10
    # Killed, and perhaps not yet collected by this process: a zombie.
    while status.exists() and ") Z " not in status.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "pid", "sleeps.py"]


def test_a_process_that_dies_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(A, tmp_path / "a.pt")
    (tmp_path / "dies.py").write_text("import os; os.abort()")
    monkeypatch.setattr(
        "covis.export.weights.convert_checkpoint._COMMAND",
        (sys.executable, str(tmp_path / "dies.py")),
    )
    with pytest.raises(CovisError, match=r"ended by SIGABRT \(no reason given\); check free"):
        convert_checkpoint(tmp_path / "a.pt", tmp_path / "a.safetensors")


def test_a_file_that_needs_more_memory_than_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the format before torch 1.6 is read into memory as a whole."""
    legacy(A, tmp_path / "a.pt")
    assert confine.available_memory() > 1 << 20
    monkeypatch.setattr(unpickle, "available_memory", lambda: 100)
    report = convert_here(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert report["code"] == 3 and "is read into memory as a whole" in report["error"]
