"""What travels: cut, joined and checked; full-size graphs that get their weights on arrival."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from covis.engines.bundle.bundle import open_bundle
from covis.engines.options import Sparsity
from covis.evaluation.bench.measure import random_images
from covis.runtime.pipeline import load
from tests.gpu import full_size, prepare
from tests.gpu.full_size import fill, strip

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    folder, single = tmp_path / "bundle", tmp_path / "single.bin"
    (folder / "sub").mkdir(parents=True)
    random = np.random.default_rng(0)
    (folder / "a.onnx").write_bytes(random.bytes(70_000))
    (folder / "sub" / "b.json").write_text("{}\n" * 9000)
    (folder / "empty").touch()
    single.write_bytes(random.bytes(3000))
    (tmp_path / "link").symlink_to(single)
    return [folder, single, tmp_path / "link"]


def cut(sources: list[Path], out: Path, *more: str, kib: int = 16) -> int:
    words = ["pieces", "--out", str(out), "--mib", str(kib / 1024), *more]
    return prepare.main([*words, *map(str, sources)])


def unpack(pieces: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """As it is done there: the script alone, in a Python that has nothing installed."""
    command = [sys.executable, "-S", "-I", str(pieces / "unpack.py"), str(pieces), str(target)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_there_and_back(tmp_path: Path, sources: list[Path], compression: str) -> None:
    if compression == "zstd" and shutil.which("zstd") is None:
        pytest.skip("the program zstd is not installed")
    out, target = tmp_path / "carry", tmp_path / "there"
    assert cut(sources, out, *(["--zstd"] if compression == "zstd" else [])) == 0
    pieces = sorted(out.glob("piece.*"))
    manifest = json.loads((out / "pieces.json").read_text())
    assert list(manifest["pieces"]) == [path.name for path in pieces] and len(pieces) > 4
    assert max(path.stat().st_size for path in pieces) == 16 << 10
    assert manifest["compression"] == compression and len(manifest["commit"]) > 6
    assert {path.name for path in out.iterdir()} == {
        "pieces.json", "unpack.py", *manifest["pieces"],
    }  # fmt: skip
    done = unpack(out, target)
    assert done.returncode == 0, done.stderr
    assert "5 files, all as they were packed" in done.stdout
    for name in ("bundle/a.onnx", "bundle/sub/b.json", "bundle/empty", "single.bin", "link"):
        assert (target / name).read_bytes() == (tmp_path / name).read_bytes()
    assert not (target / "link").is_symlink()


def test_a_missing_or_damaged_piece_is_named(tmp_path: Path, sources: list[Path]) -> None:
    out, target = tmp_path / "carry", tmp_path / "there"
    cut(sources, out)
    piece = out / "piece.002"
    whole = piece.read_bytes()
    for data, words in (
        (None, "piece.002 is missing"),
        (whole[:-1], "piece.002 has 16383 bytes, not 16384"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), r"piece.002 is damaged (sha256 differs)"),
    ):
        piece.unlink() if data is None else piece.write_bytes(data)
        done = unpack(out, target)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
        assert not target.exists()
    (out / "pieces.json").write_text("{")
    assert "pieces.json: cannot be read" in unpack(out, target).stderr


def test_mistakes_are_told_in_a_line(tmp_path: Path, sources: list[Path], capsys: Captured) -> None:
    assert cut([tmp_path / "nothing"], tmp_path / "a") == 2
    assert cut([sources[0], sources[0]], tmp_path / "b") == 2
    (tmp_path / "c").mkdir()
    assert cut(sources, tmp_path / "c") == 2
    err = capsys.readouterr().err.splitlines()
    assert ["no such file or folder" in err[0], "bundle: is given twice" in err[1]] == [True] * 2
    assert len(err) == 3
    with pytest.raises(SystemExit) as stopped:
        cut(sources, tmp_path / "d", kib=0)
    assert stopped.value.code == 2


def test_wheels_are_listed_in_one_place(tmp_path: Path) -> None:
    listed = [line for line in prepare.WHEELS.read_text().splitlines() if not line.startswith("#")]
    names = [line.split("==")[0] for line in listed]
    assert all("==" in line for line in listed) and names == sorted(set(names))
    assert {"pydantic", "tyro", "trimesh", "onnxruntime", "zstandard"} <= set(names)
    command = prepare.wheel_command(tmp_path)
    assert command[-2:] == ["-r", str(prepare.WHEELS)] and "--no-deps" in command
    assert command[command.index("--python-version") + 1] == "3.12"


def test_tensorrt_is_taken_out_of_jar_and_wheel(tmp_path: Path, capsys: Captured) -> None:
    jar, wheel = tmp_path / "redist.jar", tmp_path / "bindings.whl"
    inside = "org/bytedeco/tensorrt/linux-x86_64/"
    with zipfile.ZipFile(jar, "w") as made:
        for name in ("libnvinfer.so.10", "libnvinfer_builder_resource.so.10.6.0",
                     "libnvonnxparser.so.10", "libnvinfer_lean.so.10"):  # fmt: skip
            made.writestr(inside + name, name)
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("tensorrt_bindings/__init__.py", "__version__ = '10.6.0'\n")
    words = ["tensorrt", "--jar", str(jar), "--module", str(wheel)]
    assert prepare.main([*words, "--out", str(tmp_path / "trt")]) == 0
    libraries = tmp_path / "trt" / "tensorrt_libs"
    assert {path.name for path in libraries.iterdir()} == {
        "libnvinfer.so.10", "libnvinfer_builder_resource.so.10.6.0", "libnvonnxparser.so.10",
        "libnvinfer_plugin.so.10", "__init__.py",
    }  # fmt: skip
    ctypes.CDLL(str(libraries / "libnvinfer_plugin.so.10"))
    script = "import tensorrt; print(tensorrt.__version__)"
    environment = {"PYTHONPATH": str(tmp_path / "trt")}
    done = subprocess.run(
        [sys.executable, "-S", "-c", script], env=environment, capture_output=True, check=True
    )
    assert done.stdout == b"10.6.0\n"
    capsys.readouterr()
    with zipfile.ZipFile(jar, "w") as made:
        made.writestr(inside + "libnvinfer.so.10", "")
    assert prepare.main([*words, "--out", str(tmp_path / "other")]) == 2
    assert "holds no libnvinfer_builder_resource.so" in capsys.readouterr().err


def test_a_bundle_without_weights_gets_new_ones(tiny_bundle: Path, tmp_path: Path) -> None:
    """The way of the full size, with the tiny bundle: it opens, runs, and reads every weight."""
    weights = tiny_bundle / open_bundle(tiny_bundle).manifest.weights.file
    header, entries = full_size.read_header(weights)
    # As if the export had made one tensor itself.
    made = next(name for name in entries if name.endswith("camera_token"))
    known = {name: entry for name, entry in entries.items() if name != made}
    text = json.dumps(known).encode()
    source = tmp_path / "source.safetensors"
    source.write_bytes(len(text).to_bytes(8, "little") + text)
    strip(tiny_bundle, source, tmp_path / "stripped")
    travels = sum(path.stat().st_size for path in (tmp_path / "stripped").iterdir())
    whole = sum(path.stat().st_size for path in tiny_bundle.iterdir())
    assert travels < whole - weights.stat().st_size + len(header) + 10_000
    fill(tmp_path / "stripped", tmp_path / "filled")
    new = tmp_path / "filled" / weights.name
    assert new.stat().st_size == weights.stat().st_size
    begin, end = (len(header) + at for at in entries[made]["data_offsets"])
    assert new.read_bytes()[begin:end] == weights.read_bytes()[begin:end]
    assert new.read_bytes()[end:] != weights.read_bytes()[end:]
    pipeline = load(tmp_path / "filled")  # digests are those of the manifest
    images = random_images(3, pipeline.bundle.manifest.pixel_rule)
    quiet = lambda stage, done, total: None  # noqa: E731
    values = pipeline.run_stages(images, Sparsity(selector="dense"), quiet)
    assert np.isfinite(values["depth"]).all()
