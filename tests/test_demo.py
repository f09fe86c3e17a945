"""`covis demo`: what it prints is true, and it needs neither torch nor the network."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covis.cli import run_command
from covis.commands.demo import (
    SEES,
    compare,
    demo_bundle,
    render_truth,
    sparse_setting,
    training_record,
)
from covis.engines.options import Sparsity
from covis.evaluation.metrics.pose import auc, pair_errors, undirected
from covis.runtime.pipeline import load
from tests.chromium import chromium_page, needs_chromium

VIEWS = 8
trained = pytest.mark.skipif(
    training_record() is None, reason="the bundle here has random weights: no usable cameras"
)
BLOCKED = """
import sys
ABSENT = {"torch", "scipy", "matplotlib", "ray", "onnxscript", "onnx_ir", "safetensors"}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError("not installed here: " + name)
sys.meta_path.insert(0, Absent())
from covis.cli import run_command
sys.exit(run_command(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A demo run as `make demo` runs it, without anything but the plain dependencies."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    command = [sys.executable, "-c", BLOCKED, "demo", "--out", str(out), "--views", str(VIEWS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out, done.stderr


@pytest.fixture(scope="module")
def record(made: tuple[Path, str]) -> dict[str, Any]:
    return dict(json.loads((made[0] / "demo.json").read_text()))


def test_what_it_leaves(made: tuple[Path, str]) -> None:
    scene = made[0] / "scene"
    for name in ("points.ply", "scene.glb", "saliency.png", "scene.html", "transforms.json"):
        assert (scene / name).stat().st_size > 1000, name
    assert (scene / "sparse/0/cameras.bin").is_file()
    assert len(list((scene / "images").glob("view_*.jpg"))) == VIEWS
    assert len(list((made[0] / "photos").glob("view_*.jpg"))) == VIEWS


@trained
def test_errors_are_those_of_the_written_scene(
    made: tuple[Path, str], record: dict[str, Any]
) -> None:
    truth = render_truth(VIEWS)
    with np.load(made[0] / "scene/scene.npz") as scene:
        rotation, translation = pair_errors(scene["extrinsics"], np.asarray(truth.extrinsics))
        level = scene["pair_level"]
    sparse = record["camera_error"]["sparse"]
    assert sparse["rotation_median"] == pytest.approx(np.median(rotation), abs=0.01)
    worst = np.maximum(rotation, undirected(translation))
    for threshold in (30, 15, 5, 3):
        assert sparse[f"auc{threshold}"] == pytest.approx(auc(worst, threshold), abs=1e-6)
    kept = {(i, j) for i in range(VIEWS) for j in range(VIEWS) if i != j and level[i, j] > 0}
    seen = np.asarray(truth.covisibility)
    sees = {(i, j) for i in range(VIEWS) for j in range(VIEWS) if i != j and seen[i, j] > SEES}
    pairs = record["pairs"]
    assert (pairs["kept"], pairs["truly_see"]) == (len(kept), len(sees))
    assert pairs["precision"] == pytest.approx(len(kept & sees) / len(kept))
    assert pairs["recall"] == pytest.approx(len(kept & sees) / len(sees))


def test_many_pairs_truly_do_not_see_each_other() -> None:
    seen = np.asarray(render_truth(24).covisibility)
    assert (seen <= SEES).mean() > 0.5
    assert ((seen > SEES).sum(axis=1) >= 3).all()  # and nobody is alone


def test_what_it_says(made: tuple[Path, str], record: dict[str, Any]) -> None:
    said = made[1]
    for name in ("dense", "sparse"):
        assert f"{record['camera_error'][name]['rotation_median']:.1f}°" in said
        assert f"{record['seconds'][name]:.2f}" in said
    assert f"precision {record['pairs']['precision']:.1%}" in said
    assert f"time dense / sparse: {record['time_ratio']:.2f}" in said
    assert f"sparse is {record['sparse']}" in said
    assert record["sparse"].startswith("saliency: layers 0-7 saliency=0.9; ")
    assert 0 < record["pairs"]["kept"] < record["pairs"]["all"] and record["sparse_layers"] == 8
    assert ("covis-mini" in said) == (training_record() is not None)


@trained
def test_the_trained_model_beats_cameras_at_rest(record: dict[str, Any]) -> None:
    truth = np.asarray(render_truth(VIEWS).extrinsics)
    rest = np.tile(np.eye(3, 4), (VIEWS, 1, 1))
    rotation, translation = pair_errors(rest, truth)
    baseline = auc(np.maximum(rotation, undirected(translation)), 30)
    assert record["camera_error"]["dense"]["auc30"] > baseline
    assert record["camera_error"]["dense"]["rotation_median"] < np.median(rotation) / 3


@needs_chromium
def test_its_page_shows_the_truth_too(made: tuple[Path, str], record: dict[str, Any]) -> None:
    with chromium_page() as browser:
        browser.open(made[0] / "scene/scene.html")
        browser.painted()
        tabs = browser.evaluate(
            "[...document.querySelectorAll('#tabs button')].map(b => b.textContent)"
        )
        assert tabs == ["Similarity", "Computed", "Truth"]
        facts = browser.evaluate("document.getElementById('facts').textContent")
        assert f"{record['camera_error']['dense']['rotation_median']:.1f}°" in facts
        drawn = (
            "(() => { const c = document.getElementById('cloud');"
            " return c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
            ".reduce((n, v, i) => n + (i % 4 === 3 && v > 0), 0); })()"
        )
        assert browser.complaints() == []  # reading a canvas back, as below, earns a warning
        before = browser.evaluate(drawn)
        assert before > 5000
        browser.evaluate("document.getElementById('show-true').click()")
        browser.painted()
        assert browser.evaluate(drawn) > before
        assert not [c for c in browser.complaints() if "xception" in c]


@trained
def test_it_replaces_only_what_a_demo_wrote(
    made: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = made[0]
    assert run_command(["demo", "--out", str(out), "--views", "2"]) == 2
    assert "already exists" in capsys.readouterr().err
    (out / "mine.txt").write_text("precious")
    assert run_command(["demo", "--out", str(out), "--views", "2", "--force"]) == 2
    assert "mine.txt" in capsys.readouterr().err
    assert (out / "mine.txt").read_text() == "precious"
    (out / "mine.txt").unlink()
    assert run_command(["demo", "--out", str(out), "--views", "2", "--force"]) == 0
    assert len(list((out / "photos").iterdir())) == 2


def test_a_bundle_with_a_sparse_setting_of_its_own_shows_that() -> None:
    own = Sparsity(selector="anchors", schedule="0:self, rest:anchors=3")
    assert sparse_setting(own) == own
    for selector in ("auto", "dense"):
        chosen = sparse_setting(replace(Sparsity(), selector=selector))
        assert chosen == Sparsity(selector="saliency", tau=0.9, layers="all", min_neighbours=2)


@trained
def test_pairs_of_several_maps_are_counted_once() -> None:
    truth = render_truth(6)
    pipeline = load(demo_bundle())
    images = list(np.round(np.asarray(truth.images).transpose(0, 2, 3, 1) * 255).astype(np.uint8))
    schedule = "0:self, 1-2:anchors=1, rest:anchors=2"
    sparse = pipeline(
        images, sparsity=Sparsity(selector="anchors", schedule=schedule, min_neighbours=1)
    )
    record = compare(sparse, sparse, truth, {"dense": 1.0, "sparse": 1.0})
    assert sparse.sparsity is not None and sparse.pair_level is None
    assert record["pairs"]["kept"] == sparse.sparsity.kept_pairs - 6  # self-pairs


@pytest.mark.parametrize("views", ["1", "0", "201"])
def test_numbers_of_views(views: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["demo", "--out", str(tmp_path / "x"), "--views", views]) == 2
    assert f"--views: {views} is not in [2, 200]" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
