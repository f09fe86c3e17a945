"""The scripts behind docs/explanation/accuracy.md, on runs of a few seconds."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from covis.commands.demo import demo_bundle
from covis.engines.options import RunOptions, Sparsity
from covis.evaluation.sweep.pairs import pair_map
from covis.export.ops import TokenLayout
from covis.export.training.correspondences import Correspondences
from covis.runtime.pipeline import load
from covis.synthetic import HELD_OUT_SEEDS, TRAINING_SEEDS_START, SceneSpec, build, camera_path

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
MODULES = (
    "attention", "estimate", "findings", "measure", "page", "parts", "requests", "scenes",
    "settings", "statistics", "tables",
)  # fmt: skip


@pytest.fixture(scope="module")
def scripts() -> Iterator[SimpleNamespace]:
    """The modules of the benchmark, imported as Python does when the script is run."""
    sys.path.insert(0, str(FOLDER))
    try:
        modules = {name: importlib.import_module(f"accuracy.{name}") for name in MODULES}
        yield SimpleNamespace(main=importlib.import_module("accuracy_mini"), **modules)
    finally:
        sys.path.remove(str(FOLDER))
        for name in [n for n in sys.modules if n.split(".")[0] in ("accuracy", "accuracy_mini")]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def estimator(scripts: SimpleNamespace) -> Any:
    """Estimator of the shipped model on a scene of six views."""
    model = scripts.estimate.Model(load(demo_bundle()).bundle)
    scene = scripts.scenes.load(scripts.requests.SceneRequest("loop/loop", 0, 6, "along"))
    return scripts.estimate.Estimator(model, scene)


def test_the_page_of_a_tiny_run(
    scripts: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts.parts, "LAYER_VIEWS", 4)
    mean = scripts.scenes.mean_training_pose
    monkeypatch.setattr(scripts.estimate, "mean_training_pose", lambda kind: mean(kind, scenes=2))
    words = ["--bundle", str(demo_bundle()), "--kinds", "studio/orbit", "--workers", "1"]
    words += ["--wide-kinds", "loop/loop", "--work", str(tmp_path / "work")]
    words += ["--out", str(tmp_path / "out.json")]
    words += ["--page", str(tmp_path / "docs" / "accuracy.md")]
    amount = scripts.parts.Amount(1, {4: 1}, {4: 1}, 1, 1, 1)
    scripts.main.main(words, amount)
    record = json.loads((tmp_path / "out.json").read_text())
    text = (tmp_path / "docs" / "accuracy.md").read_text()
    parts = record["parts"]
    assert list(parts) == ["estimators", "choices-4", "options-4", "layers", "precision"]
    assert list(parts["estimators"]["settings"]) == [
        "covis-mini", "self only", "each view alone", "mean pose", "identity",
    ]  # fmt: skip
    assert len(record["attention"]["layers"]) == record["depth"] == 8
    assert len(parts["layers"]["settings"]) == 1 + 2 * 3 * 8
    for title in (
        "## What the numbers say", "## Dense, against baselines", "### 4 views",
        "## Thresholds, pooled blocks and schedules, 4 views", "## Which layers need other views",
        "## Low precision against skipping", "## Where attention goes",
    ):  # fmt: skip
        assert f"\n{title}\n" in text
    for name in ("choices", "layers", "attention"):
        assert f"](accuracy/{name}.svg)" in text
        assert (tmp_path / "docs" / "accuracy" / f"{name}.svg").stat().st_size > 5000
    assert "too few scenes to judge" in text and "nan" not in text
    dense = parts["estimators"]["settings"]["covis-mini"]["studio/orbit"]
    line = next(row for row in text.splitlines() if row.startswith("| studio/orbit | covis-mini"))
    assert f"| {100 * dense['auc30'][0]:.1f} |" in line and f"| {dense['abs_rel'][0]:.3f} |" in line

    # The same command measures nothing again, apart from a file that was damaged.
    files = sorted((tmp_path / "work").rglob("cells-*/*.json"))
    assert [("random" in path.name) for path in files] == [False, True]  # 4 views; 8 views
    files[1].write_text("{")
    times = {path: path.stat().st_mtime_ns for path in files}
    scripts.main.main(words, amount)
    changed = [path for path in files if path.stat().st_mtime_ns != times[path]]
    assert changed == [files[1]]
    again = json.loads((tmp_path / "out.json").read_text())
    assert again["parts"] == parts
    # The page comes from the record alone.
    (tmp_path / "docs" / "accuracy.md").unlink()
    scripts.main.main([*words, "--page-only"])
    rewritten = (tmp_path / "docs" / "accuracy.md").read_text()
    seconds = (f"{one['cpu_seconds']:,} CPU" for one in (again, record))
    assert rewritten == text.replace(*reversed(list(seconds)))


def test_cameras_and_work_are_those_of_the_pipeline(
    scripts: SimpleNamespace, estimator: Any
) -> None:
    pipeline = load(demo_bundle(), RunOptions(threads=1))
    photos = list(estimator.scene.truth.images)
    anchors = Sparsity(selector="anchors", layers="all", anchors=2, min_neighbours=0)
    pooled = Sparsity(selector="pooled", layers="all", keep_ratio=0.25)
    schedule = Sparsity(selector="anchors", schedule="0-3:self, rest:anchors=2")
    for sparsity in (Sparsity(selector="dense"), anchors, pooled, schedule):
        expected = pipeline(photos, sparsity=sparsity)
        found, _, work = estimator.predict(scripts.settings.Setting("", sparsity))
        np.testing.assert_allclose(found, expected.extrinsics, atol=5e-4)
        assert expected.sparsity is not None
        assert work == pytest.approx(expected.sparsity.attention_work, abs=1e-6)
    given = Sparsity(selector="saliency", layers="0,2", min_neighbours=0, reference=False)
    setting = scripts.settings.Setting("", given, "saliency", 0.4)
    similar = pipeline(photos).similarity
    assert similar is not None
    level = pair_map(similar, 0.4, reference=False)
    expected = pipeline(photos, sparsity=given, pair_level=level)
    found, _, work = estimator.predict(setting)
    np.testing.assert_allclose(found, expected.extrinsics, atol=5e-4)
    assert work == pytest.approx((2 * (level > 0).mean() + 6) / 8)


@pytest.mark.parametrize("views", [12, 24, 96])
def test_choices_have_equal_counts(scripts: SimpleNamespace, views: int) -> None:
    settings = {s.name: s for s in scripts.settings.choices(views)}
    for share in scripts.settings.SHARES:
        anchors = settings[scripts.settings.at("kcenter", share)].sparsity.anchors
        count = scripts.settings.anchor_pairs(anchors, views)
        assert count <= share * views**2 or anchors == 1
        assert scripts.settings.anchor_pairs(anchors + 1, views) > share * views**2
        names = [n for n in settings if n.endswith(f"at {share:g}")]
        assert len(names) >= 9
        for name in names:
            setting = settings[name]
            if setting.pairs is None:
                assert setting.sparsity.anchors == anchors
                continue
            score = np.random.default_rng(0).random((views, views))
            kept = pair_map(score, setting.share, reference=setting.sparsity.reference)
            assert count - 1 <= (kept > 0).sum() <= count
    reference = [s for s in settings if "reference" in s]
    assert any("at 0.125" in name for name in reference) == (views == 96)


def test_the_same_count_on_a_scene(scripts: SimpleNamespace, estimator: Any) -> None:
    every = {s.name: s for s in scripts.settings.choices(6)}
    works = {name: estimator.record(s)["work"] for name, s in every.items() if "at 0.5" in name}
    assert len(works) == 9  # without the pairs of view 0, which are 16 of the 16
    assert max(works.values()) == works["kcenter at 0.5"] == 16 / 36
    assert min(works.values()) >= 15 / 36
    assert len({every[name].key for name in works}) == 9
    # Random pairs differ between seeds, and anchors between choices.
    moved = [estimator.record(every[f"random{seed} at 0.5"])["moved"] for seed in (0, 1)]
    assert moved[0] != moved[1]


def test_precisions_on_the_same_pairs(scripts: SimpleNamespace, estimator: Any) -> None:
    found = {s.name: estimator.record(s) for s in scripts.settings.precisions()}
    assert list(found) == [
        "fp32", "fp16", "fp8", "regime 2, 50.0%", "skip, 50.0%", "regime 2, 25.0%", "skip, 25.0%",
        "regime 2, 12.5%", "skip, 12.5%",
    ]  # fmt: skip
    moved = {name: record["moved"] for name, record in found.items()}
    assert moved["fp32"] == 0.0
    assert min(moved["fp16"], moved["fp8"]) > 1e-3
    # Computing the other pairs in FP8 stays nearer to dense than leaving them out.
    for share in ("50.0%", "25.0%", "12.5%"):
        assert moved[f"regime 2, {share}"] < moved[f"skip, {share}"]
        assert found[f"regime 2, {share}"]["work"] == 1.0
        assert found[f"skip, {share}"]["work"] <= float(share[:-1]) / 100 + 1e-9 or share == "12.5%"


def test_baselines_and_depth(scripts: SimpleNamespace, estimator: Any) -> None:
    by_name = {s.name: s for s in scripts.settings.ESTIMATORS}
    identity = estimator.record(by_name["identity"], with_depth=True)
    assert identity["translation_median"] == 90.0 and "abs_rel" not in identity
    alone = estimator.record(by_name["each view alone"], with_depth=True)
    own = estimator.record(by_name["self only"], with_depth=True)
    assert 0 < alone["abs_rel"] != own["abs_rel"] > 0
    cameras, _, _ = estimator.predict(by_name["mean pose"])
    np.testing.assert_array_equal(cameras[0], np.eye(3, 4))
    np.testing.assert_array_equal(cameras[1], cameras[5])


def test_the_mean_pose_is_the_best_constant_guess(scripts: SimpleNamespace) -> None:
    """Of training scenes: its rotation is nearer to theirs, in the mean square, than others."""
    mean = scripts.scenes.mean_training_pose("studio/walk", scenes=12)
    np.testing.assert_allclose(mean[:, :3] @ mean[:, :3].T, np.eye(3), atol=1e-9)
    rotations = []
    for seed in range(TRAINING_SEEDS_START, TRAINING_SEEDS_START + 12):
        e = camera_path(build(SceneSpec(seed, "studio")), 12, "walk").extrinsics
        e = e[np.random.default_rng(seed).permutation(12)]
        rotations.append(e[1:, :, :3] @ e[0, :, :3].T)
    every = np.concatenate(rotations)
    cost = ((every - mean[:, :3]) ** 2).sum()
    assert cost < ((every - np.eye(3)) ** 2).sum()
    for axis in range(3):
        turn = np.eye(3)
        i, j = [a for a in range(3) if a != axis]
        turn[i, i] = turn[j, j] = np.cos(0.05)
        turn[i, j], turn[j, i] = -np.sin(0.05), np.sin(0.05)
        assert cost <= ((every - turn @ mean[:, :3]) ** 2).sum()


def test_scenes_are_held_out_and_denser_along_the_same_arc(scripts: SimpleNamespace) -> None:
    request = scripts.requests.SceneRequest("room/orbit", 3, 4, "along", size=28)
    assert request.seed in HELD_OUT_SEEDS and request.seed >= HELD_OUT_SEEDS.start + 1000
    scene = scripts.scenes.load(request)
    assert scene.images.shape == (4, 3, 28, 28)
    np.testing.assert_array_equal(scene.truth.frames, np.arange(4))
    np.testing.assert_allclose(np.diag(scene.covisibility), 1.0)
    few = scripts.scenes.load(dataclasses.replace(request, draw="random"))
    path = camera_path(build(SceneSpec(request.seed, "room")), 12, "orbit").extrinsics
    for extrinsics in few.truth.extrinsics:  # each is one of twelve views of the path
        assert np.abs(path - extrinsics).max(axis=(1, 2)).min() < 1e-5


def test_uniform_attention_and_perfect_matches(scripts: SimpleNamespace) -> None:
    """Two views of four patches and a special token; every patch matches its mirror image."""
    layout = TokenLayout(frame_tokens=5, special_first=1)
    mirror = torch.tensor([3, 2, 1, 0])
    patch = torch.stack([torch.arange(4), mirror, mirror, torch.arange(4)]).reshape(1, 2, 2, 4)
    visible = torch.ones(1, 2, 2, 4, dtype=torch.bool)
    visible[0, 0, 1, 0] = False
    nothing = torch.zeros(0)
    matches = Correspondences(nothing, patch, visible, nothing)
    found = scripts.attention.MatchStatistics(layout, matches)
    q = k = torch.zeros(1, 1, 10, 4)
    found(0, q, k)
    uniform = {name: values[0] for name, values in found.layers[0].items()}
    assert uniform["entropy"] == pytest.approx(np.log(10))
    assert uniform["relative"] == pytest.approx(1.0)
    assert uniform["own"] == pytest.approx(0.4) and uniform["special"] == pytest.approx(0.2)
    assert uniform["first"] == pytest.approx(0.4)
    assert uniform["mass"] == pytest.approx(uniform["chance"]) == pytest.approx(7 / 80)
    # Keys of view 0 are the four axes, those of view 1 its mirror image; queries are their keys.
    axes = torch.zeros(1, 1, 10, 4)
    axes[0, 0, 1:5], axes[0, 0, 6:10] = torch.eye(4), torch.eye(4)[mirror]
    found(1, 400 * axes, axes)
    sharp = {name: values[0] for name, values in found.layers[1].items()}
    assert sharp["found"] == 1.0
    assert sharp["entropy"] == pytest.approx(np.log(2))  # the patch itself and its match
    assert sharp["own"] == pytest.approx(0.5) and sharp["special"] == pytest.approx(0.0)
    assert sharp["mass"] == pytest.approx(0.5 * 7 / 8)


def test_errors_are_those_of_the_mean_of_kinds(scripts: SimpleNamespace) -> None:
    def one(first: list[float], second: list[float]) -> dict[str, Any]:
        return {"a/b": {"auc30": first}, "c/d": {"auc30": second}}

    results = scripts.statistics.Results(
        {
            "x": one([0.1, 0.3], [0.5, 0.9]),
            "y": one([0.0, 0.3], [0.3, 0.7]),
            "z": one([0, 0], [1, 1]),
        }
    )
    found = results.estimate("x", "auc30")
    assert found.mean == pytest.approx(0.45)
    assert found.error == pytest.approx(np.sqrt(0.02 / 2 + 0.08 / 2) / 2)
    apart = results.difference("y", "x", "auc30")
    assert apart.mean == pytest.approx(-0.125)
    assert apart.error == pytest.approx(np.sqrt(0.005 / 2) / 2)
    assert not apart.judged and not apart.clear
    assert results.estimate(("y", "z"), "auc30", "c/d").mean == pytest.approx(0.75)
    assert np.isnan(scripts.statistics.Estimate.of({"a/b": np.array([1.0])}).error)
    many = scripts.statistics.Estimate.of({"a/b": np.array([1.0, 1.1, 0.9, 1.0, 1.05, 0.95])})
    assert many.judged and many.clear


@pytest.mark.parametrize(("own", "needed"), [(0.2, True), (0.58, False)])
def test_the_text_follows_the_numbers(scripts: SimpleNamespace, own: float, needed: bool) -> None:
    rng = np.random.default_rng(0)

    def cells(auc: float) -> dict[str, Any]:
        values = (auc + 0.01 * rng.standard_normal(8)).tolist()
        metrics = {f"auc{t}": values for t in (30, 15, 5, 3)}
        return {"room/orbit": metrics, "loop/loop": metrics}

    names = {"covis-mini": 0.6, "self only": own, "each view alone": own / 2}
    results = scripts.statistics.Results({name: cells(auc) for name, auc in names.items()})
    assert scripts.findings.needs_neighbours(results) is needed
    text = scripts.findings.neighbours(results)
    assert ("It needs its neighbours" in text) is needed
    assert ("can therefore matter little" in text) is not needed

    chosen = {s.name: cells(0.6) for s in scripts.settings.choices(24)}
    for name, each in chosen.items():
        work = 0.122 if "0.125" in name else 0.24 if "0.25" in name else 0.48
        shift = -0.2 if name.startswith("random") and "0.125" in name else 0.0
        for metrics in each.values():
            metrics["work"] = [work] * 8
            metrics["auc30"] = [value + shift for value in metrics["auc30"]]
    every = {24: scripts.statistics.Results(chosen)}
    text = scripts.findings.pairs(every)
    assert "worse than saliency by more than two standard errors with 1 of 1" in text
    assert "24 views, 12.2% of the pairs" in text
    (line,) = [row for row in text.splitlines() if row.startswith("- 24 views")]
    assert "more than two standard errors" in line.split("Random pairs against saliency: -")[1]
    assert "24 views: 12.2% (" in scripts.findings.no_loss(every)
