"""Hostile files in a bundle's `plans`: nothing waits, nothing grows, nothing is interpreted."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from covis.cli import run_command
from covis.engines.bundle.bundle import open_bundle
from covis.engines.bundle.folder import PLANS
from covis.engines.errors import CovisError, ExitCode
from covis.engines.limits import PLAN_LAYERS, PLAN_RECORD
from covis.engines.limits import PLANS as MOST_PLANS
from covis.engines.tensorrt.plans.cache import EngineInfo, PlanCache
from covis.engines.tensorrt.plans.record import PlanRecord, records
from covis.engines.tensorrt.plans.trust import read_plan
from covis.engines.tensorrt.proof.layers import parse_layers
from covis.engines.tensorrt.proof.recorded import plan_report
from tests.engines.tensorrt.plan_inputs import plan_inputs

Captured = pytest.CaptureFixture[str]
Replace = Callable[[Path], None]


def pipe(path: Path) -> None:
    os.mkfifo(path)  # opening it would wait for a writer


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def dangling(path: Path) -> None:
    path.symlink_to("/nowhere")


ODD = [pipe, endless, folder, dangling]


@pytest.fixture
def record(mini_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlanRecord:
    """A plan of the encoder with layer information, in the bundle's `plans`."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    digests = {file.path: file.sha256 for file in open_bundle(mini_bundle).manifest.files}
    inputs = plan_inputs(
        stage="encoder", graph=digests["encoder.onnx"], weights=digests["model.safetensors"]
    )
    found, _ = PlanCache(mini_bundle / PLANS).get(
        inputs, lambda write: write(b"plan"), lambda plan: EngineInfo('{"Layers": []}', 1)
    )
    return found


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < 20


def inspected(bundle: Path, capsys: Captured) -> tuple[int, str]:
    """Run `covis inspect`; return its exit code, and the last line that it wrote."""
    code = run_command(["inspect", str(bundle)])
    captured = capsys.readouterr()
    text = captured.err if code else captured.out
    return code, text.strip().splitlines()[-1]


@pytest.mark.parametrize("odd", ODD)
def test_records(mini_bundle: Path, record: PlanRecord, odd: Replace, capsys: Captured) -> None:
    path = mini_bundle / PLANS / f"{record.file}.json"
    path.unlink()
    odd(path)
    code, line = inspected(mini_bundle, capsys)
    assert code == ExitCode.USER
    assert str(path) in line and ("is not a regular file" in line or "is a symbolic link" in line)


def test_oversized_record_is_not_read(
    mini_bundle: Path, record: PlanRecord, capsys: Captured
) -> None:
    path = mini_bundle / PLANS / f"{record.file}.json"
    with path.open("r+b") as stream:
        stream.truncate(PLAN_RECORD.most + 1)
    code, line = inspected(mini_bundle, capsys)
    assert code == ExitCode.USER and "is larger than 1 MiB" in line


@pytest.mark.parametrize("data", [b"[" * 500_000, b'{"a":' * 100_000], ids=["lists", "objects"])
def test_deeply_nested_record(
    mini_bundle: Path, record: PlanRecord, data: bytes, capsys: Captured
) -> None:
    (mini_bundle / PLANS / f"{record.file}.json").write_bytes(data)
    code, line = inspected(mini_bundle, capsys)
    assert code == ExitCode.USER and "is no valid record of a plan" in line


@pytest.mark.parametrize("odd", ODD)
def test_layers(mini_bundle: Path, record: PlanRecord, odd: Replace, capsys: Captured) -> None:
    assert record.layers is not None
    path = mini_bundle / PLANS / record.layers[0]
    path.unlink()
    odd(path)
    code, line = inspected(mini_bundle, capsys)
    assert code == 0 and line.startswith("not proven: ")


def test_oversized_layers_are_not_read(mini_bundle: Path, record: PlanRecord) -> None:
    assert record.layers is not None
    with (mini_bundle / PLANS / record.layers[0]).open("r+b") as stream:
        stream.truncate(PLAN_LAYERS.most + 1)  # sparse: takes no space
    with pytest.raises(CovisError, match="is larger than 64 MiB"):
        plan_report(open_bundle(mini_bundle), record, mini_bundle / PLANS)


def test_deeply_nested_layers(mini_bundle: Path, record: PlanRecord, capsys: Captured) -> None:
    assert record.layers is not None
    data = b'{"Layers":' + b"[" * 1_000_000
    path = mini_bundle / PLANS / record.layers[0]
    path.write_bytes(data)
    forged = record.model_copy(update={"layers": (path.name, hashlib.sha256(data).hexdigest())})
    (mini_bundle / PLANS / f"{record.file}.json").write_text(forged.model_dump_json())
    code, line = inspected(mini_bundle, capsys)
    assert code == 0 and line.startswith("not proven: ") and "inspector's JSON" in line


def test_marks_without_an_end_take_no_time() -> None:
    metadata = "[ONNX Layer: " * 200_000 + "[ONNX Layer: /attention]"
    layer = '{"Layers": [{"Name": "x", "Metadata": "' + metadata + '"}]}'
    started = time.monotonic()
    assert parse_layers(layer)[0].nodes == ("/attention",)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("odd", ODD)
def test_plans(mini_bundle: Path, record: PlanRecord, odd: Replace) -> None:
    path = mini_bundle / PLANS / record.file
    path.unlink()
    odd(path)
    with pytest.raises(CovisError, match=r"is not a regular file|is a symbolic link") as caught:
        read_plan(record, mini_bundle / PLANS)
    assert caught.value.code == ExitCode.USER
    assert PlanCache(mini_bundle / PLANS).find(record) is None


def test_longer_plan_is_not_read(mini_bundle: Path, record: PlanRecord) -> None:
    with (mini_bundle / PLANS / record.file).open("r+b") as stream:
        stream.truncate(1 << 42)  # sparse: takes no space
    with pytest.raises(CovisError, match="has 4,398,046,511,104 bytes where its record says 4"):
        read_plan(record, mini_bundle / PLANS)


def test_too_many_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        (tmp_path / f"{number}.plan.json").touch()
    small = MOST_PLANS.__class__("", 2, "records", "")
    monkeypatch.setattr("covis.engines.tensorrt.plans.record.PLANS", small)
    with pytest.raises(CovisError, match="has more than 2 records; remove those"):
        list(records(tmp_path))


def test_deep_folders_are_not_walked(mini_bundle: Path) -> None:
    deep = mini_bundle / PLANS
    deep.mkdir()
    here = os.open(deep, os.O_RDONLY)
    for _ in range(3_000):  # deeper than a path can name, and than Python can recurse
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    open_bundle(mini_bundle)
    # pytest cannot remove what no path can name.
    subprocess.run(["rm", "-r", deep], check=True)


def test_names_are_text_and_no_markup(
    mini_bundle: Path, record: PlanRecord, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert record.layers is not None
    from covis.engines.tensorrt.proof.layers import Layer
    from covis.engines.tensorrt.proof.report import EngineReport, report

    def with_markup(*arguments: Any, **options: Any) -> EngineReport:
        layers = (Layer("x", "[red]kind[/]", "[/nonsense]", "", (), (), ()),)
        return report(arguments[0], arguments[1], layers, tf32=False)

    monkeypatch.setattr("covis.engines.tensorrt.proof.recorded.report", with_markup)
    code = run_command(["inspect", str(mini_bundle)])
    out = capsys.readouterr().out
    assert code == 0 and "[red]kind[/]" in out and "[/nonsense]" in out
    named = record.model_copy(update={"gpu": "[bold]\x1b[2J[/nonsense]"})
    (mini_bundle / PLANS / f"{record.file}.json").write_text(named.model_dump_json())
    assert run_command(["inspect", str(mini_bundle)]) == 0
    out = capsys.readouterr().out
    assert r"[bold]\x1b[2J[/nonsense]" in out and "\x1b" not in out
