"""The bundle that ships: exported from released weights only, with their record and licence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from safetensors.torch import load_file, save_file

from covis.engines.bundle.bundle import open_bundle, sha256_of
from covis.engines.errors import CovisError
from covis.export.training import demo_bundle
from covis.export.training.demo_bundle import make
from tests.tiny_vggt import CONFIG, random_weights


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """Return weights and record of the tiny model, as `covis.export.training.release` does."""
    folder = tmp_path / "release"
    folder.mkdir()
    state = {k: v.half() for k, v in load_file(random_weights(folder)).items()}
    path = folder / "covis-mini.safetensors"
    metadata = {"model": "vggt", "config": json.dumps(CONFIG), "licence": "Apache-2.0"}
    save_file(state, path, metadata)
    write_record(path)
    return path


def write_record(weights: Path) -> None:
    record = {"image_size": 70, "file": {"sha256": sha256_of(weights)}, "training": {"hours": 1}}
    weights.with_suffix(".json").write_text(json.dumps(record))


@pytest.mark.slow
def test_the_bundle_and_what_lies_beside_it(released: Path, tmp_path: Path) -> None:
    """A whole export, which takes a minute: run it with `pytest -m slow` and this file's name."""
    out = tmp_path / "assets" / "demo"
    assert make(released, out, verify=False) == out
    manifest = open_bundle(out).manifest
    assert manifest.weights.licence == "Apache-2.0"
    assert manifest.weights.source == "covis-mini.safetensors"
    assert manifest.weights.dtype == "float16"
    assert (manifest.pixel_rule.height, manifest.pixel_rule.width) == (70, 70)
    assert manifest.sparsity == demo_bundle.SPARSITY
    assert json.loads((out.parent / "covis-mini.json").read_text())["training"] == {"hours": 1}
    assert "Apache-2.0" in (out.parent / "covis-mini.LICENSE.txt").read_text()


def test_weights_without_metadata(released: Path, tmp_path: Path) -> None:
    save_file(load_file(released), released)
    write_record(released)
    with pytest.raises(CovisError, match="is no released weights file"):
        make(released, tmp_path / "demo")


def test_the_record_of_other_weights(released: Path, tmp_path: Path) -> None:
    record = released.with_suffix(".json")
    text = json.loads(record.read_text())
    text["file"]["sha256"] = "0" * 64
    record.write_text(json.dumps(text))
    with pytest.raises(CovisError, match="is the record of other weights than covis-mini"):
        make(released, tmp_path / "demo")
    record.unlink()
    with pytest.raises(CovisError, match="is no training record; give --record"):
        make(released, tmp_path / "demo")


def test_what_is_too_large_for_the_package(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_bundle, "LARGEST", 1000)
    with pytest.raises(CovisError, match="bytes, over 1,000; the package takes a smaller model"):
        make(released, tmp_path / "demo")


def test_only_a_bundle_is_replaced(released: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    with pytest.raises(CovisError, match="is no intact bundle, and is not replaced"):
        make(released, out)
    assert (out / "mine.txt").read_text() == "precious"
