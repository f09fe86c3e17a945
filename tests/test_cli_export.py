"""`covis export`: weights, configurations and disks that fail; what is left behind is nothing."""

from __future__ import annotations

import importlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from covis.cli import run_command
from covis.engines.bundle.manifest import Manifest
from tests.file_limit import file_limit
from tests.places import ROOT
from tests.tiny_vggt import CONFIG, random_weights

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The folder that exports go to; empty."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def export(place: Path, weights: Path | str, *more: str, config: Path | None = None) -> int:
    config = config or _config(place)
    size = ["--height", "56", "--width", "84"]
    files = ["--weights", str(weights), "--config", str(config)]
    return run_command(["export", "vggt", "--out", str(place / "out"), *files, *size, *more])


def _config(place: Path) -> Path:
    path = place.parent / "config.json"
    path.write_text(json.dumps(CONFIG))
    return path


def last_line(capsys: Captured) -> str:
    """The error, which follows what the export has told of its progress."""
    out, err = capsys.readouterr()
    assert not out and err.endswith("\n") and "Traceback" not in err
    lines = err.splitlines()
    assert sum(line.startswith("covis: ") for line in lines) == 1
    return lines[-1]


def damaged(weights: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    from safetensors.torch import load_file, save_file

    state = {name: value.clone() for name, value in load_file(weights).items()}
    change(state)
    save_file(state, folder / "damaged.safetensors")
    return folder / "damaged.safetensors"


def cut(weights: Path, folder: Path, size: int) -> Path:
    (folder / "cut.safetensors").write_bytes(weights.read_bytes()[:size])
    return folder / "cut.safetensors"


def set_value(key: str, value: float) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        state[key].view(-1)[-1] = value

    return change


KEY = "aggregator.camera_token"


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (set_value(KEY, float("nan")), 4, f"1 weights hold NaN or infinity ({KEY}); download"),
        (set_value(KEY, float("-inf")), 4, f"1 weights hold NaN or infinity ({KEY}); download"),
        (lambda s: s.pop(KEY), 2, "this is a checkpoint of none of the known models"),
        (lambda s: s.update(surprise=s[KEY].clone()), 2, "1 unknown (surprise); pass the config"),
        (lambda s: s.update({KEY: s[KEY][..., :64].clone()}), 2,
         f"1 of another shape ({KEY} is [1, 2, 1, 64], not [1, 2, 1, 128]); pass the config"),
        (lambda s: (s.clear(), s.update({"point_decoder.projects.weight": _tensor()})), 2,
         "this is a checkpoint of pi^3; pass one of VGGT"),
    ],
    ids=["nan", "inf", "missing", "extra", "shape", "pi3"],
)  # fmt: skip
def test_wrong_weights(
    capsys: Captured, place: Path, weights: Path,
    change: Callable[[dict[str, Any]], None], code: int, message: str,
) -> None:  # fmt: skip
    path = damaged(weights, place.parent, change)
    assert export(place, path) == code
    line = last_line(capsys)
    assert line.startswith(f"covis: {path}: ") and message in line
    assert list(place.iterdir()) == []


def _tensor() -> Any:
    import torch

    return torch.zeros(3)


@pytest.mark.parametrize("share", [0.999, 0.5, 0.001])
def test_cut_weights(capsys: Captured, place: Path, weights: Path, share: float) -> None:
    size = weights.stat().st_size
    path = cut(weights, place.parent, int(size * share))
    assert export(place, path) == 2
    line = last_line(capsys)
    assert f"{path}: the file is cut short: {int(size * share)} bytes of " in line
    assert line.endswith("; download it again") and list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("model.pt", b"x", "this is a pickle, and opening a pickle runs code that it holds; use"),
        ("a\n.BIN", b"x", r"a\n.BIN: this is a pickle"),
        ("empty.safetensors", b"", "not a readable safetensors file"),
        ("text.safetensors", b"<!DOCTYPE html>" * 99, "empty|not a readable|cut short"),
        ("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "cut short|not a"),
        ("list.safetensors", struct.pack("<Q", 2) + b"[]", "not a readable safetensors file"),
        ("absent.safetensors", None, "no such weights file; check the path"),
    ],
)
def test_no_weights(
    capsys: Captured, place: Path, name: str, data: bytes | None, message: str
) -> None:
    path = place.parent / name
    if data is not None:
        path.write_bytes(data)
    assert export(place, path) == 2
    line = last_line(capsys)
    assert any(part in line for part in message.split("|"))
    assert list(place.iterdir()) == []


def test_folder_as_weights(capsys: Captured, place: Path) -> None:
    assert export(place, place.parent) == 2
    assert "this is a folder without weights; name the .safetensors file" in last_line(capsys)


def test_hub_out_of_reach(capsys: Captured, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host\nsecond line")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", failing)
    assert export(place, "somebody/something") == 3
    line = last_line(capsys)
    assert "somebody/something: model.safetensors could not be fetched" in line
    assert "second line" not in line.split(";")[1] and list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("\xff", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "holds no JSON object"),
        ('{"config": 3}', "holds no JSON object"),
        ('{"dpeth": 4}', "unknown field 'dpeth'; known: camera_heads"),
        ('{"depth": "4"}', "depth = '4' is not of type int"),
        ('{"depth": true}', "depth = True is not of type int"),
        ('{"depth": -4}', "depth = -4 must be above 0"),
        ('{"embed_dim": 100, "num_heads": 3}', "does not split into num_heads = 3"),
        ('{"depth": 1000000}', "depth = 1000000 is above the limit of 128"),
        ('{"dino_depth": 1000000000000}', "dino_depth = 1000000000000 is above the limit of 128"),
        ('{"embed_dim": 1000000000000}', "embed_dim = 1000000000000 is above the limit of 65,536"),
        ('{"mlp_ratio": NaN}', "mlp_ratio = nan must be above 0"),
        ('{"mlp_ratio": Infinity}', "mlp_ratio = inf is above the limit of 64"),
        ('{"mlp_ratio": 1e300}', "mlp_ratio = 1e+300 is above the limit of 64"),
        ('{"depth": 1e300}', "depth = 1e+300 is not of type int"),
        ('{"depth": ' + "9" * 4000 + "}", "is above the limit of 128"),
        ('{"mlp_ratio": ' + "9" * 4000 + "}", "is not of type float"),
        ('{"depth": ' + "9" * 5000 + "}", "is not JSON"),
        ('{"num_heads": ' + "9" * 4000 + "}", "does not split into num_heads = 99999"),
        ('{"img_size": 1400000000}', "img_size = 1400000000 is above the limit of 65,536"),
        (
            '{"dpt_out_channels": [8, 16, 24, 10e9]}',
            "dpt_out_channels = [8, 16, 24, 10000000000.0]",
        ),
        (
            '{"depth": ' + "[" * 900 + "1" + "]" * 900 + "}",
            "depth = [[[[[[[...]]]]]]] is not of",
        ),
        ('{"depth": "' + "x" * 1_000_000 + '"}', "is not of type int"),
        (json.dumps({f"{n}" * 50: 1 for n in range(20_000)}), "; and 19992 more; known: camera"),
    ],
    ids=lambda value: value[:32],
)
def test_wrong_configurations_are_refused_at_once(
    capsys: Captured, place: Path, weights: Path, text: str, message: str
) -> None:
    config = place.parent / "config\n.json"
    config.write_bytes(text.encode("latin-1"))
    importlib.import_module("covis.export.exporter")
    start = time.process_time()
    assert export(place, weights, config=config) == 2
    assert time.process_time() - start < 20  # else minutes, or for ever
    line = last_line(capsys)
    assert message in line and len(line) < 2000
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("side", ["0", "-14", "15", "1400000000000"])
def test_image_sizes_that_no_bundle_has(
    capsys: Captured, place: Path, weights: Path, side: str
) -> None:
    assert export(place, weights, "--height", side) == 2
    assert side in last_line(capsys) and list(place.iterdir()) == []


def test_absent_configuration(capsys: Captured, place: Path, weights: Path) -> None:
    assert export(place, weights, config=place / "none.json") == 2
    assert "none.json: cannot be read (No such file or directory)" in last_line(capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--selector", "saliency", "--layers", "99"],
         "--layers: '99' names none of the model's 4 global layers; use 0 to 3"),
        (["--selector", "anchors", "--schedule", "0-9:self"],
         "--schedule: the model has no global layer 4; use 0 to 3"),
        (["--selector", "anchors", "--schedule", "0-2:self"],
         "--schedule: leaves out layer 3 of the model's 4; name 0 to 3, or add \"rest:dense\""),
        (["--tau", "0.5"],
         "--tau: has no effect with the selector auto, but is 0.5; give the selector"),
        (["--anchors", "0"], "--anchors: 0 is not in [1, 1,000,000]; for layers without anchors"),
        (["--light-up-to", "10"], "--light-up-to: 10 is below --dense-up-to 50; the numbers"),
    ],
    ids=lambda value: value[-2].strip("-") if isinstance(value, list) else "",
)  # fmt: skip
def test_selections_that_the_model_cannot_have(
    capsys: Captured, place: Path, weights: Path, options: list[str], message: str
) -> None:
    assert export(place, weights, *options) == 2
    assert message in last_line(capsys)
    assert list(place.iterdir()) == []


def test_existing_output_is_not_touched(
    capsys: Captured, place: Path, weights: Path, mini_bundle: Path
) -> None:
    (place / "out").mkdir()
    (place / "out" / "mine").write_text("mine")
    for more, message in (
        ([], "out: already exists; choose another name or pass --force"),
        (["--force"], "out: is no intact bundle, and is not replaced"),
    ):
        assert export(place, weights, *more) == 2
        assert message in last_line(capsys)
        assert [p.relative_to(place).as_posix() for p in place.rglob("*")] == ["out", "out/mine"]
    assert (place / "out" / "mine").read_text() == "mine"


def test_output_below_a_file(capsys: Captured, tmp_path: Path, weights: Path) -> None:
    (tmp_path / "place").write_text("a file")
    assert export(tmp_path / "place", weights) == 2
    assert "place: is a file, not a folder" in last_line(capsys)


def test_output_where_nobody_may_write(capsys: Captured, place: Path, weights: Path) -> None:
    assert export(Path("/proc/covis"), weights, config=_config(place)) == 3
    assert "/proc/covis/out: cannot be written" in last_line(capsys)


def test_calibration_without_photos(capsys: Captured, place: Path, weights: Path) -> None:
    for folder in (place.parent / "absent", place.parent / "empty"):
        if folder.name == "empty":
            folder.mkdir()
        assert export(place, weights, "--precision", "fp8", "--calibration", str(folder)) == 2
        assert folder.name in last_line(capsys)
        assert list(place.iterdir()) == []


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_full_disk(capsys: Captured, place: Path, weights: Path, dtype: str) -> None:
    with file_limit(1 << 16):
        assert export(place, weights, "--dtype", dtype) == 3
    line = last_line(capsys)
    assert "out: cannot be written (File too large); check free space and rights" in line
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("step", ["_place_weights", "write_graphs", "describe_file"])
def test_interrupt_at_each_step(
    capsys: Captured, place: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr("covis.export.exporter.write_graphs", lambda *_: ())
    monkeypatch.setattr(
        f"covis.export.exporter.{step}", lambda *_: signal.raise_signal(signal.SIGINT)
    )
    assert export(place, weights, "--no-verify") == 130
    assert last_line(capsys) == "covis: interrupted; nothing was left half-written"
    assert list(place.iterdir()) == []


def test_interrupt_from_outside(place: Path, weights: Path) -> None:
    """As a terminal does it: to the whole group of processes."""
    config = _config(place)
    process = subprocess.Popen(
        [sys.executable, "-m", "covis", "export", "vggt", "--out", str(place / "made" / "out"),
         "--weights", str(weights), "--config", str(config), "--height", "56", "--width", "84"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    limit = time.monotonic() + 120
    while not list(place.glob("made/.out.*.partial/model.safetensors")):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and not out
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "covis: interrupted; nothing was left half-written"
    assert list(place.iterdir()) == []


@pytest.fixture
def no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports without their slow part; what is left is where files come from and go to."""
    monkeypatch.setattr("covis.export.exporter.write_graphs", lambda *_: ())


@pytest.mark.usefixtures("no_graphs")
def test_weights_are_copied_or_moved(place: Path, weights: Path) -> None:
    mine = place.parent / "mine.safetensors"
    mine.write_bytes(weights.read_bytes())
    stored = place / "out" / "model.safetensors"
    assert export(place, mine, "--no-verify") == 0
    assert mine.is_file() and stored.read_bytes() == mine.read_bytes()
    assert export(place, mine, "--no-verify", "--move-weights", "--force") == 0
    assert not mine.exists() and stored.stat().st_nlink == 1
    assert stored.read_bytes() == weights.read_bytes()
    assert Manifest.model_validate_json((place / "out" / "manifest.json").read_bytes())


@pytest.mark.usefixtures("no_graphs")
def test_moved_from_the_bundle_that_is_replaced(place: Path, weights: Path) -> None:
    stored = place / "out" / "model.safetensors"
    assert export(place, weights, "--no-verify") == 0
    assert export(place, stored, "--no-verify", "--move-weights", "--force") == 0
    assert stored.read_bytes() == weights.read_bytes()


@pytest.mark.usefixtures("no_graphs")
def test_links_to_weights_stay(place: Path, weights: Path) -> None:
    link = place.parent / "link.safetensors"
    link.symlink_to(weights)
    assert export(place, link, "--no-verify", "--move-weights") == 0
    stored = place / "out" / "model.safetensors"
    assert link.is_symlink() and weights.is_file() and not stored.is_symlink()
    assert stored.stat().st_nlink == 1


@pytest.mark.usefixtures("no_graphs")
def test_files_of_a_download_cache_are_not_moved(place: Path, weights: Path) -> None:
    """The links of its snapshots would lead nowhere."""
    cache = place.parent / "models--somebody--model"
    snapshot = cache / "snapshots" / "0123"
    for folder in (cache / "blobs", snapshot):
        folder.mkdir(parents=True)
    blob = cache / "blobs" / "d1635"
    blob.write_bytes(weights.read_bytes())
    (snapshot / "model.safetensors").symlink_to(blob)
    for number, given in enumerate((cache, snapshot, snapshot / "model.safetensors", blob)):
        options = ["--no-verify", "--move-weights", *(["--force"] if number else [])]
        assert export(place, given, *options) == 0
        stored = place / "out" / "model.safetensors"
        assert stored.read_bytes() == blob.read_bytes() and not stored.is_symlink()


@pytest.mark.usefixtures("no_graphs")
def test_moved_weights_stay_where_the_export_fails(
    place: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = place.parent / "mine.safetensors"
    mine.write_bytes(weights.read_bytes())
    monkeypatch.setattr(
        "covis.export.exporter.describe_file", lambda *_: signal.raise_signal(signal.SIGINT)
    )
    assert export(place, mine, "--no-verify", "--move-weights") == 130
    assert mine.read_bytes() == weights.read_bytes() and mine.stat().st_nlink == 1


@pytest.mark.usefixtures("no_graphs")
def test_names_that_look_like_markup(capsys: Captured, tmp_path: Path, weights: Path) -> None:
    folder = tmp_path / "[red]a[" / "b]\x1b[2J"
    folder.mkdir(parents=True)
    assert export(folder, weights, "--no-verify") == 0
    err = capsys.readouterr().err
    assert "\x1b[2J" not in err and r"[red]a[/b]\x1b[2J/out: 0 graphs" in err
