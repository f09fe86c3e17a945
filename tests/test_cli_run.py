"""`covis run`: every format from real files, and every way it can fail without leaving a trace."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from covis.cli import run_command
from tests.engines.mini_bundle import edit, edit_graph, flip, sign
from tests.file_limit import file_limit
from tests.places import ROOT

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The folder that scenes go to; empty."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def run(bundle: Path, photos: Path, place: Path, *more: str) -> int:
    return run_command(["run", str(bundle), str(photos), "--out", str(place / "out"), *more])


def last_line(capsys: Captured) -> str:
    """The error, which follows the progress bars."""
    out, err = capsys.readouterr()
    assert not out and err.endswith("\n") and "Traceback" not in err
    lines = err.splitlines()
    assert [line for line in lines if line.startswith("covis: ")] == lines[-1:]
    return lines[-1]


def test_every_format(tiny_bundle: Path, photos: Path, place: Path, capsys: Captured) -> None:
    assert run(tiny_bundle, photos, place, "--tau", "0.5", "--chunk", "3") == 0
    out, err = capsys.readouterr()
    shown = [Path(line) for line in out.splitlines()]  # a folder stands for a file of each view
    written = [p for path in shown for p in ([path] if path.is_file() else path.iterdir())]
    assert sorted(written) == sorted(p for p in (place / "out").rglob("*") if p.is_file())
    assert {path.suffix for path in written} >= {".npz", ".ply", ".glb", ".bin", ".txt", ".json",
                                                 ".png"}  # fmt: skip
    assert all(path.stat().st_size for path in written)
    plan = "4 views: saliency: layers 0-3 saliency=0.5"
    assert err.count(plan) == 2  # before the work, and after it with the share
    said = re.search(rf"{plan}; ([0-9.]+)% of dense global attention, ([0-9]+) of 16 pairs", err)
    assert said is not None
    summary = json.loads((place / "out" / "scene.json").read_text())
    assert float(said[1]) == pytest.approx(100 * summary["sparsity"]["attention_work"], abs=0.05)
    assert int(said[2]) == summary["sparsity"]["kept_pairs"]
    assert summary["sparsity"]["schedule"] == "0-3:saliency=0.5" and summary["anchors"] is None
    assert summary["views"] == [f"view_{i:03d}.jpg" for i in range(4)]
    assert list(place.iterdir()) == [place / "out"]


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ([], "4 views: dense (up to 50 views nothing is left out)"),
        (["--dense-up-to", "2"],
         "4 views: light (more than 2 views, up to 250): layers 0-1 anchors=10, 2-3 dense"),
        (["--dense-up-to", "2", "--light-up-to", "3"],
         "4 views: anchors (more than 3 views): layers 0-1 anchors=10, 2-3 anchors=25"),
        (["--anchors", "2", "--min-neighbours", "0"],
         "4 views: anchors: layers 0-1 anchors=1, 2-3 anchors=2"),
        (["--schedule", "0:self, rest:dense"], "4 views: anchors: layers 0 self, 1-3 dense"),
        (["--selector", "dense"], "4 views: dense"),
    ],
)  # fmt: skip
def test_one_line_says_what_was_chosen(
    tiny_bundle: Path, photos: Path, place: Path, capsys: Captured, more: list[str], line: str
) -> None:
    assert run(tiny_bundle, photos, place, "--formats", "npz", *more) == 0
    lines = [said.rstrip() for said in capsys.readouterr().err.splitlines()]
    assert line in lines
    summary = json.loads((place / "out" / "scene.json").read_text())
    work = summary["sparsity"]["attention_work"]
    assert f"{line}; {work:.1%} of dense global attention" in lines


def test_a_schedule_that_does_not_fit_ends_the_run_before_the_photos(
    tiny_bundle: Path, place: Path, capsys: Captured
) -> None:
    assert run(tiny_bundle, place / "no photos", place, "--schedule", "0-1:self") == 2
    assert "--schedule: leaves out layer 2 of the model's 4" in last_line(capsys)


def test_selectors_and_chunks(tiny_bundle: Path, photos: Path, place: Path) -> None:
    """One bundle serves all selectors; how frames are chunked changes nothing."""
    results = {}
    for name, more in {
        "dense": ["--selector", "dense"],
        "all": ["--tau", "0", "--chunk", "1"],
        "saliency": ["--tau", "1", "--reference", "False"],
        "pooled": ["--selector", "pooled", "--keep-ratio", "0.3", "--order", "hilbert"],
        "both": ["--selector", "both", "--tau", "0.5", "--threads", "1"],
        "body": ["--no-kernel", "--selector", "dense"],
    }.items():
        (place / name).mkdir()
        assert run(tiny_bundle, photos, place / name, "--formats", "npz", *more) == 0
        with np.load(next((place / name).rglob("*.npz"))) as file:
            results[name] = file["depth"]
    for name in ("all", "body"):
        np.testing.assert_allclose(results[name], results["dense"], rtol=1e-3, atol=1e-4)
    for name in ("saliency", "pooled"):
        assert np.isfinite(results[name]).all()
        assert np.abs(results[name] - results["dense"]).max() > 1e-5


def test_one_photo(tiny_bundle: Path, photos: Path, place: Path) -> None:
    assert run(tiny_bundle, photos / "view_000.jpg", place) == 0
    assert json.loads((place / "out" / "scene.json").read_text())["views"] == ["view_000.jpg"]


def test_nothing_to_run_on(tiny_bundle: Path, place: Path, capsys: Captured) -> None:
    (place.parent / "empty").mkdir()
    (place.parent / "notes\n.txt").touch()
    for photos, message in (
        ("empty", "empty: holds no photo; put jpg, png"),
        ("absent", "absent: no such file or folder; check the path"),
        ("notes\n.txt", r"notes\n.txt: "),
    ):
        assert run(tiny_bundle, place.parent / photos, place) == 2
        assert message in last_line(capsys)
        assert list(place.iterdir()) == []
    assert run_command(["run", str(tiny_bundle), "--out", str(place / "out")]) == 2


def test_photo_that_is_none(tiny_bundle: Path, photos: Path, place: Path, capsys: Captured) -> None:
    folder = place.parent / "mixed"
    folder.mkdir()
    for path in photos.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    data = (photos / "view_002.jpg").read_bytes()
    (folder / "view \n002\x1b[2J.jpg").write_bytes(data[: len(data) // 2])
    assert run(tiny_bundle, folder, place) == 2
    assert r"view \n002\x1b[2J.jpg: " in last_line(capsys)
    assert list(place.iterdir()) == []


def test_photo_that_is_a_strip(tiny_bundle: Path, place: Path, capsys: Captured) -> None:
    strip = place.parent / "strip.png"
    Image.new("RGB", (300, 2)).save(strip)
    assert run(tiny_bundle, strip, place) == 2
    assert f"{strip}: 300 x 2 pixels is a strip, no photo" in last_line(capsys)


def test_bundle_of_another_model(
    tiny_copy: Path, photos: Path, place: Path, capsys: Captured
) -> None:
    edit(tiny_copy, lambda m: m["model"].update(name="pi3"))
    assert run(tiny_copy, photos, place) == 2
    assert "do not write what a scene of pi3 is made of" in last_line(capsys)
    assert list(place.iterdir()) == []


def test_errors_inside_a_graph_are_told_once(
    tiny_copy: Path, photos: Path, place: Path, capfd: Captured
) -> None:
    """ONNX Runtime's own log holds names of nodes, and is nothing for a terminal."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        out = graph.output[0].name
        last = next(node for node in graph.node if out in node.output)
        last.output[list(last.output).index(out)] = "inner"
        graph.node.add(op_type="Concat", name="\x1b[2J", input=["inner"] * 2, output=[out])
        graph.node[-1].attribute.append(onnx.helper.make_attribute("axis", 0))

    edit_graph(tiny_copy, "encoder", change)
    assert run(tiny_copy, photos, place) == 3
    err = capfd.readouterr().err
    assert "\x1b" not in err and err.count("Non-zero status code") == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--threads", "99999999999"], "--threads: 99999999999 is above 1,024; 0 takes all"),
        (["--layers", "99"], "--layers: '99' names none of the model's 4 global layers"),
        (["--layers", "²"], "--layers: '²' is no layer"),
        (["--tau", "-0.1"], "--tau: -0.1 is not in [0, 1]"),
        (["--tau-low", "0.95"], "--tau-low: 0.95 is not in [0, tau = 0.9]"),
        (["--keep-ratio", "nan"], "--keep-ratio: nan is not in [0, 1]"),
        (["--min-neighbours", "9" * 20], "--min-neighbours"),
        (["--conf-percentile", "101"], "--conf-percentile: 101.0 is not in [0, 100]"),
        (["--formats", "npz", "obj"], "obj"),
    ],
)
def test_wrong_options(
    tiny_bundle: Path, photos: Path, place: Path, capsys: Captured, more: list[str], message: str
) -> None:
    assert run(tiny_bundle, photos, place, *more) == 2
    assert message in last_line(capsys)
    assert list(place.iterdir()) == []


def test_existing_output_is_found_before_the_work(
    photos: Path, place: Path, capsys: Captured
) -> None:
    (place / "out").mkdir()
    (place / "out" / "mine").write_text("mine")
    for more, message in (
        ([], "out: already exists; choose another name or pass --force"),
        (["--force"], "out: holds 'mine', which covis did not write, and is not replaced"),
    ):
        assert run(place / "no bundle is needed for this", photos, place, *more) == 2
        assert message in last_line(capsys)
        assert [p.relative_to(place).as_posix() for p in place.rglob("*")] == ["out", "out/mine"]


def test_damaged_bundle(tiny_copy: Path, photos: Path, place: Path, capsys: Captured) -> None:
    flip(tiny_copy / "model.safetensors", -1)
    assert run(tiny_copy, photos, place) == 2
    assert "model.safetensors: is not what was exported (sha256 differs)" in last_line(capsys)
    assert list(place.iterdir()) == []


def test_graph_that_onnxruntime_refuses(
    tiny_copy: Path, photos: Path, place: Path, capsys: Captured
) -> None:
    """Forged with all digests right: ours is the message, not a traceback."""
    edit_graph(tiny_copy, "depth", lambda m: m.graph.node[0].__setattr__("op_type", "Nonsense"))
    assert run(tiny_copy, photos, place) == 2  # a fault of the bundle, not of the machine
    line = last_line(capsys)
    assert "depth.onnx: ONNX Runtime" in line and "cannot load it" in line
    assert list(place.iterdir()) == []


def test_graphs_exchanged(tiny_copy: Path, photos: Path, place: Path, capsys: Captured) -> None:
    depth, points = tiny_copy / "depth.onnx", tiny_copy / "points.onnx"
    data = depth.read_bytes()
    depth.write_bytes(points.read_bytes())
    points.write_bytes(data)
    sign(tiny_copy)
    assert run(tiny_copy, photos, place) == 2
    assert "depth.onnx: only the manifest has output 'depth'" in last_line(capsys)


def test_graph_whose_results_have_another_shape(
    tiny_copy: Path, photos: Path, place: Path, capsys: Captured
) -> None:
    """Buffers are ours, so a graph that writes more than it says must be stopped."""

    def lie(manifest: dict) -> None:  # type: ignore[type-arg]
        for stage in manifest["stages"]:
            for tensor in stage["outputs"]:
                if tensor["name"] == "depth":
                    tensor["shape"] = ["N", 28, 84]

    edit(tiny_copy, lie)
    edit_graph(
        tiny_copy,
        "depth",
        lambda m: m.graph.output[0].type.tensor_type.shape.dim[1].__setattr__("dim_value", 28),
    )
    assert run(tiny_copy, photos, place) == 3
    assert "depth" in last_line(capsys)
    assert list(place.iterdir()) == []


def test_weights_with_nan(tiny_copy: Path, photos: Path, place: Path, capsys: Captured) -> None:
    path = tiny_copy / "model.safetensors"
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack_from("<Q", data)
    offset = json.loads(data[8 : 8 + length])["aggregator.camera_token"]["data_offsets"][0]
    struct.pack_into("<f", data, 8 + length + offset, float("nan"))
    path.write_bytes(data)
    sign(tiny_copy)
    assert run(tiny_copy, photos, place) == 4
    line = last_line(capsys)
    assert "stage aggregator, output " in line and "numbers are not finite" in line
    assert "check the weights" in line and list(place.iterdir()) == []


def test_thousand_photos_are_loaded_before_an_option_fails(
    tiny_bundle: Path, place: Path, capsys: Captured
) -> None:
    folder = place.parent / "many"
    folder.mkdir()
    Image.new("RGB", (12, 8), "teal").save(folder / "0.png")
    data = (folder / "0.png").read_bytes()
    for i in range(1, 1000):
        (folder / f"{i}.png").write_bytes(data)
    (folder / "999.png").write_bytes(data[:40])
    assert run(tiny_bundle, folder, place) == 2
    assert "999.png: " in last_line(capsys)


@pytest.mark.parametrize("name", ["npz", "ply", "glb"])
def test_full_disk(
    tiny_bundle: Path, photos: Path, place: Path, capsys: Captured, name: str
) -> None:
    with file_limit(1 << 14):
        assert run(tiny_bundle, photos, place, "--formats", name) == 3
    line = last_line(capsys)
    assert "out: cannot be written (File too large); check free space and rights" in line
    assert list(place.iterdir()) == []


def test_memory_that_is_short(
    tiny_bundle: Path, photos: Path, place: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("covis.runtime.memory.memory.HostMemory.empty", failing)
    assert run(tiny_bundle, photos, place) == 3
    assert "out of memory; use fewer views or a smaller --chunk" in last_line(capsys)
    assert list(place.iterdir()) == []


def test_interrupt_from_outside(tiny_bundle: Path, place: Path) -> None:
    """While ONNX Runtime computes: 200 views, of which the aggregator takes seconds."""
    folder = place.parent / "many"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for i in range(200):
        Image.fromarray(noise.integers(0, 256, (56, 84, 3), np.uint8)).save(folder / f"{i}.bmp")
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", _SIGNALLING, str(tiny_bundle), str(folder),
         "--out", str(place / "made" / "out")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "aggregator\n"
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    begun = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - begun < 30
    assert process.returncode == 130 and not out
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "covis: interrupted; nothing was left half-written"
    assert list(place.iterdir()) == []


# Says when the aggregator begins, so that the test can strike then.
_SIGNALLING = """
import sys
from covis.cli import run_command
from covis.runtime.backends.ort_session import Session
original = Session.run
def run(self, inputs, outputs):
    if self.stage.name == "aggregator":
        print("aggregator", flush=True)
    original(self, inputs, outputs)
Session.run = run
sys.exit(run_command(["run", *sys.argv[1:], "--no-kernel"]))
"""


def test_a_bundle_of_unsuitable_size_warns_once(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    (tmp_path / "tall").mkdir()
    Image.new("RGB", (60, 240), "grey").save(tmp_path / "tall" / "a.png")
    arguments = ["run", str(tiny_bundle), str(tmp_path / "tall"), "--out", str(tmp_path / "scene")]
    run_command([*arguments, "--formats", "npz"])
    assert "suit these photos badly" in capsys.readouterr().err
