"""`covis demo`: what it prints is true, and it needs neither torch nor the network."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covis.cli import run_command
from covis.commands.demo import (
    DENSE,
    SEES,
    SELF_ONLY,
    SPARSE,
    compare,
    demo_bundle,
    render_truth,
    settings,
    sparse_setting,
    training_record,
)
from covis.commands.demo_page import write_page
from covis.engines.options import Sparsity
from covis.evaluation.metrics.pose import auc, pair_errors, undirected
from covis.evaluation.metrics.trajectory import absolute_error
from covis.runtime.pipeline import load
from tests.chromium import chromium_page, needs_chromium
from tests.runtime.scene.random_scene import random_scene

VIEWS = 8
trained = pytest.mark.skipif(
    training_record() is None, reason="the bundle here has random weights: no usable cameras"
)
RUNS = (DENSE, SPARSE, SELF_ONLY)


def needs_its_neighbours() -> bool:
    """Whether the shipped weights were recorded to lose 20 points of AUC@30 without other views."""
    scores = ((training_record() or {}).get("evaluation") or {}).get("scores", {}).values()
    return any(
        kind["covis-mini"]["auc@30"] - kind[SELF_ONLY]["auc@30"] >= 0.2
        for kind in scores
        if SELF_ONLY in kind
    )


def page_data(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    return dict(json.loads(found[1]))


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


@trained
def test_the_page_draws_every_run_on_the_true_cameras(
    made: tuple[Path, str], record: dict[str, Any]
) -> None:
    data = page_data(made[0] / "scene/scene.html")
    assert tuple(run["label"] for run in data["runs"]) == RUNS
    assert data["runs"][data["first"]]["label"] == SPARSE
    truth = np.asarray(render_truth(VIEWS).extrinsics)
    true = np.array(data["trueCameras"])[:, 4]
    apart = np.linalg.norm(true[:, None] - true, axis=2)
    centres = -np.einsum("mji,mj->mi", truth[:, :, :3], truth[:, :, 3])
    np.testing.assert_allclose(apart, np.linalg.norm(centres[:, None] - centres, axis=2), atol=1e-3)
    with np.load(made[0] / "scene/scene.npz") as scene:
        expected = absolute_error(scene["extrinsics"], truth)
    shown = np.array(data["runs"][data["first"]]["cameras"])[:, 4]
    error = np.sqrt(np.mean(np.sum((shown - true) ** 2, axis=1)))
    assert error == pytest.approx(expected, abs=1e-3)
    for run in data["runs"]:
        facts = dict(run["facts"])
        errors = record["camera_error"][run["label"]]
        assert facts["AUC@30"] == f"{100 * errors['auc30']:.1f}"
        assert facts["AUC@5"] == f"{100 * errors['auc5']:.1f}"
        assert facts["rotation"] == f"{errors['rotation_median']:.1f}°"
        assert facts["translation"] == f"{errors['translation_median']:.1f}°"
        assert facts["attention"] == f"{record['attention'][run['label']]:.1%}"


def test_many_pairs_truly_do_not_see_each_other() -> None:
    seen = np.asarray(render_truth(24, path="loop", family="studio").covisibility)
    assert (seen <= SEES).mean() > 0.5
    assert ((seen > SEES).sum(axis=1) >= 3).all()  # and nobody is alone


def test_what_it_says(made: tuple[Path, str], record: dict[str, Any]) -> None:
    said = made[1]
    assert tuple(record["camera_error"]) == tuple(record["seconds"]) == RUNS
    for name in RUNS:
        (row,) = (line for line in said.splitlines() if line.startswith(f"│ {name} "))
        errors = record["camera_error"][name]
        assert [cell.strip() for cell in row.split("│")[2:-1]] == [
            f"{100 * errors['auc30']:.1f}",
            f"{100 * errors['auc5']:.1f}",
            f"{errors['rotation_median']:.1f}°",
            f"{errors['translation_median']:.1f}°",
            f"{record['attention'][name]:.1%}",
            f"{record['seconds'][name]:.2f}",
        ]
    assert f"precision {record['pairs']['precision']:.1%}" in said
    assert f"time dense / sparse: {record['time_ratio']:.2f}" in said
    assert f"sparse is {record['sparse']}" in said
    assert record["sparse"].startswith("anchors: layers 0-7 anchors=1; ")
    assert record["attention"][DENSE] == 1.0
    assert record["attention"][SELF_ONLY] == pytest.approx(1 / VIEWS)
    assert 1 / VIEWS < record["attention"][SPARSE] < 1
    assert 0 < record["pairs"]["kept"] < record["pairs"]["all"] and record["sparse_layers"] == 8
    assert ("covis-mini" in said) == (training_record() is not None)


@pytest.mark.skipif(not needs_its_neighbours(), reason="the weights here compare no views")
def test_the_model_needs_its_neighbours_and_beats_cameras_at_rest(tmp_path: Path) -> None:
    assert run_command(["demo", "--out", str(tmp_path / "demo")]) == 0
    record = json.loads((tmp_path / "demo/demo.json").read_text())
    truth = np.asarray(render_truth(record["views"]).extrinsics)
    rest = np.tile(np.eye(3, 4), (len(truth), 1, 1))
    rotation, translation = pair_errors(rest, truth)
    baseline = auc(np.maximum(rotation, undirected(translation)), 30)
    dense, sparse, alone = (record["camera_error"][name] for name in RUNS)
    assert dense["auc30"] > max(baseline, alone["auc30"]) + 0.1
    assert sparse["auc30"] > (dense["auc30"] + alone["auc30"]) / 2
    assert dense["rotation_median"] < alone["rotation_median"]


@needs_chromium
def test_its_page_shows_the_truth_too(made: tuple[Path, str], record: dict[str, Any]) -> None:
    with chromium_page() as browser:
        browser.open(made[0] / "scene/scene.html")
        browser.painted()
        tabs = browser.evaluate(
            "[...document.querySelectorAll('#tabs button')].map(b => b.textContent)"
        )
        assert tabs == ["Similarity", "Computed", "Truth"]
        cards = browser.evaluate(
            "[...document.querySelectorAll('#runs article')].map(c => c.textContent)"
        )
        assert len(cards) == 3 and all(
            f"{record['camera_error'][name]['rotation_median']:.1f}°" in card
            for name, card in zip(RUNS, cards, strict=True)
        )
        drawn = (
            "(() => { const c = document.getElementById('cloud');"
            " return c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
            ".reduce((n, v, i) => n + (i % 4 === 3 && v > 0), 0); })()"
        )
        assert browser.complaints() == []  # reading a canvas back, as below, earns a warning
        before = browser.evaluate(drawn)
        assert before > 5000
        browser.evaluate("document.getElementById('show-true').click()")  # it shows them at first
        browser.painted()
        assert browser.evaluate(drawn) < before
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
    assert sparse_setting(own, 24) == own
    for selector in ("auto", "dense"):
        for views, anchors in ((2, 1), (24, 3), (48, 6)):
            chosen = sparse_setting(replace(Sparsity(), selector=selector), views)
            assert chosen == Sparsity(selector="anchors", anchors=anchors, layers="all")
    kinds = [settings(each, 24) for each in (own, Sparsity())]
    for each in kinds:
        assert tuple(each) == RUNS and each[DENSE].selector == "dense"
        assert each[SELF_ONLY].schedule == "all:self"
    assert kinds[0][SPARSE] == own


@trained
def test_pairs_of_several_maps_are_counted_once() -> None:
    truth = render_truth(6)
    pipeline = load(demo_bundle())
    images = list(np.round(np.asarray(truth.images).transpose(0, 2, 3, 1) * 255).astype(np.uint8))
    schedule = "0:self, 1-2:anchors=1, rest:anchors=2"
    sparse = pipeline(
        images, sparsity=Sparsity(selector="anchors", schedule=schedule, min_neighbours=1)
    )
    record = compare({DENSE: sparse, SPARSE: sparse}, truth, {DENSE: 1.0, SPARSE: 1.0})
    assert sparse.sparsity is not None and sparse.pair_level is None
    assert record["pairs"]["kept"] == sparse.sparsity.kept_pairs - 6  # self-pairs


@pytest.mark.parametrize(
    ("schedule", "note"),
    [
        ("0-1:anchors=3", "patches attend to their view, similar ones and 3 anchors"),
        ("0:self, 1:dense", "anchors: layers 0 self, 1 dense"),
    ],
)
def test_a_page_of_three_runs(schedule: str, note: str, tmp_path: Path) -> None:
    """Names the rule of the sparse run, and leaves out a view that one run has lost."""
    truth, path = render_truth(5), tmp_path / "page.html"
    scene = random_scene(5)
    assert scene.sparsity is not None
    report = replace(scene.sparsity, selector="anchors", schedule=schedule, layers=(0,))
    lost = scene.extrinsics.copy()
    lost[2] = np.nan
    scenes = {
        DENSE: scene,
        SPARSE: replace(scene, sparsity=report),
        SELF_ONLY: replace(scene, extrinsics=lost),
    }
    record = compare(scenes, truth, dict.fromkeys(RUNS, 1.0))
    write_page(path, scenes, truth, record)
    data = page_data(path)
    assert data["runs"][1]["note"] == note
    assert data["names"] == ["000.jpg", "001.jpg", "003.jpg", "004.jpg"]
    assert all(np.isfinite(run["cameras"]).all() for run in data["runs"])
    assert np.shape(data["trueCameras"]) == (4, 5, 3)


def test_other_scenes_can_be_shown(tmp_path: Path) -> None:
    arguments = ["--family", "room", "--path", "orbit", "--seed", "1000001", "--views", "3"]
    assert run_command(["demo", "--out", str(tmp_path / "demo"), *arguments]) == 0
    truth = render_truth(3, 1000001, "orbit", "room")
    record = json.loads((tmp_path / "demo/demo.json").read_text())
    others = ~np.eye(3, dtype=bool)
    assert record["pairs"]["truly_see"] == int(
        (np.asarray(truth.covisibility)[others] > SEES).sum()
    )
    assert record["scene"] == {"family": "room", "path": "orbit", "seed": 1000001}


@pytest.mark.parametrize("views", ["1", "0", "201"])
def test_numbers_of_views(views: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["demo", "--out", str(tmp_path / "x"), "--views", views]) == 2
    assert f"--views: {views} is not in [2, 200]" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
