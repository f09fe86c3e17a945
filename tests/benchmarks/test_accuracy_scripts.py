"""The scripts behind docs/explanation/accuracy.md, on runs of a few seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from covis.commands.demo import demo_bundle
from covis.engines.options import RunOptions, Sparsity
from covis.evaluation.metrics.pose import auc, pair_errors, undirected
from covis.evaluation.sweep.axes import SweepAxes
from covis.export.models import build_model
from covis.runtime.pipeline import load
from covis.synthetic import HELD_OUT_SEEDS, TRAINING_SEEDS_START, SceneSpec, build, camera_path
from tests.tiny_vggt import CONFIG

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """`accuracy_mini` and `precision_accuracy`, imported as Python does when they are run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("accuracy_mini", "precision_accuracy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import accuracy_mini  # type: ignore[import-not-found]
    import precision_accuracy  # type: ignore[import-not-found]

    return accuracy_mini, precision_accuracy


def test_the_page_of_a_tiny_run(
    scripts: tuple[ModuleType, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, _ = scripts
    small = SweepAxes((0.5,), ("saliency",), layers=("all",), shares=(0.75,), anchors=())
    monkeypatch.setattr(script, "SweepAxes", lambda **given: small)
    words = ["--bundle", str(demo_bundle()), "--kinds", "studio/orbit", "--scenes", "2"]
    words += ["--views", "3", "--sparse-kinds", "studio/scatter", "--wide-scenes", "1"]
    words += ["--wide-views", "4", "--work", str(tmp_path / "work")]
    words += ["--precision", str(tmp_path / "none"), "--anchors", str(tmp_path / "none")]
    words += ["--out", str(tmp_path / "out.json")]
    script.main([*words, "--page", str(tmp_path / "docs" / "accuracy.md")])
    record = json.loads((tmp_path / "out.json").read_text())
    text = (tmp_path / "docs" / "accuracy.md").read_text()
    dense = record["dense"]["studio/orbit"]
    assert {name: found["pairs"] for name, found in dense.items()} == {
        "covis-mini": 6, "identity": 6, "mean pose": 6,
    }  # fmt: skip
    assert [row["name"] for row in record["sparse"]["studio/scatter"]] == [
        "dense", "saliency-tau0.5-all",
        *(f"{s}-share0.75-all" for s in ("saliency", "random", "oracle")),
    ]  # fmt: skip
    assert len(record["attention"]) == record["depth"]
    for title in ("## Dense", "## Sparse: studio/scatter", "## Where attention goes"):
        assert title in text
    for name in ("pareto", "pairs", "attention"):
        assert f"](accuracy/{name}.png)" in text
        assert (tmp_path / "docs" / "accuracy" / f"{name}.png").stat().st_size > 5000
    # The same command with more scenes runs only those.
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "work").rglob("scenes/*.json")}
    words[words.index("--wide-scenes") + 1] = "2"
    script.main([*words, "--page", str(tmp_path / "docs" / "accuracy.md")])
    assert all(path.stat().st_mtime_ns == at for path, at in done.items())
    assert len(list((tmp_path / "work").rglob("scenes/*.json"))) == 2 * len(done)


def test_the_anchors_of_a_tiny_run(
    scripts: tuple[ModuleType, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "anchors_accuracy", raising=False)
    import anchors_accuracy as script  # type: ignore[import-not-found]

    monkeypatch.setattr(script, "BUDGETS", {4: (2,), 5: (2, 3)})
    monkeypatch.setattr(script, "SEEDS", (0, 4))
    words = ["--kinds", "studio/scatter", "--scenes", "2", "--out", str(tmp_path / "anchors.json")]
    script.main([*words, "--bundle", str(demo_bundle()), "--work", str(tmp_path / "work")])
    record = json.loads((tmp_path / "anchors.json").read_text())
    assert record["schedule"] == "0:self, 1-2:anchors=10, 3-7:anchors=25"
    rows = record["rows"]["5"]
    assert len(rows) == 1 + 2 * 2 * 6 and {r["scenes"] for r in rows} == {2}
    dense = rows[0]
    assert (dense["choice"], dense["attention_work"], len(dense["by_scene"])) == ("dense", 1.0, 2)
    (kept,) = [r for r in rows if is_setting(r, "kcenter", 3, own_frame=False)]
    assert kept["attention_work"] == pytest.approx(0.2 / 8 + 2 * 0.2 / 8 + 5 * 0.6 / 8, abs=1e-4)
    text = script.section(record)
    assert f"| 3 | {kept['attention_work']:.1%} | {script._aucs([kept])} |" in text
    assert "**4 views, own frame, 4 neighbours**" in text and text.count("k-center |") == 1
    # A choice whose AUC is that of k-center in every scene differs by 0.
    same = [{**r, "by_scene": dense["by_scene"]} for r in rows]
    for mean, error in script.differences(same).values():
        assert not mean.any() and not error.any()
    moved = [
        {**r, "by_scene": (np.array(dense["by_scene"]) + 0.01 * (r["choice"] == "random")).tolist()}
        for r in rows
    ]
    mean, error = script.differences(moved)["random"]
    np.testing.assert_allclose(mean, 0.01)
    np.testing.assert_allclose(error, 0.0, atol=1e-12)


def test_cameras_alone_are_those_of_the_whole_pipeline(scripts: tuple[ModuleType, ...]) -> None:
    from anchors_accuracy import CamerasAlone

    whole = load(demo_bundle(), RunOptions(threads=1))
    photos = list(np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8))
    dense = Sparsity(selector="dense")
    alone = CamerasAlone(whole.bundle, whole.options)(photos, sparsity=dense)
    np.testing.assert_array_equal(alone.extrinsics, whole(photos, sparsity=dense).extrinsics)
    assert not alone.depth.any()


def is_setting(row: dict[str, Any], choice: str, anchors: int, own_frame: bool) -> bool:
    return (row["choice"], row.get("anchors"), row.get("own_frame")) == (choice, anchors, own_frame)


def test_the_mean_pose_is_the_best_constant_guess(scripts: tuple[ModuleType, ModuleType]) -> None:
    """Of training scenes: its rotation is nearer to theirs, in the mean square, than others."""
    mean = scripts[0].mean_training_pose("studio/walk", scenes=20)
    np.testing.assert_allclose(mean[:, :3] @ mean[:, :3].T, np.eye(3), atol=1e-9)
    rotations = []
    for seed in range(TRAINING_SEEDS_START, TRAINING_SEEDS_START + 20):
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
    assert not set(range(TRAINING_SEEDS_START, TRAINING_SEEDS_START + 200)) & set(HELD_OUT_SEEDS)


def test_precisions_on_the_same_pairs(scripts: tuple[ModuleType, ModuleType]) -> None:
    script = scripts[1]
    torch.manual_seed(0)
    model: Any = build_model("vggt", CONFIG).requires_grad_(False).eval()
    rows = script.run(model, ("studio/orbit",), 1, 4, 70, shares=(1.0, 0.75))
    assert list(rows) == [
        "fp32", "fp16", "fp8", "regime 2, 100.0%", "skip, 100.0%", "regime 2, 75.0%", "skip, 75.0%",
    ]  # fmt: skip
    for same in ("regime 2, 100.0%", "skip, 100.0%"):  # every pair kept: dense
        assert rows[same]["moved"] < 1e-3  # degrees: another order of summation
    assert min(rows["fp16"]["moved"], rows["fp8"]["moved"]) > 1e-3
    # Computing the other pairs in FP8 stays nearer to dense than leaving them out.
    assert rows["regime 2, 75.0%"]["moved"] < rows["skip, 75.0%"]["moved"]
    assert rows["regime 2, 75.0%"]["moved"] <= rows["fp8"]["moved"] * 1.5
    assert "| regime 2, 75.0% |" in script.markdown(rows)


def test_its_cameras_are_the_model_s_own(scripts: tuple[ModuleType, ModuleType]) -> None:
    torch.manual_seed(1)
    model: Any = build_model("vggt", CONFIG).requires_grad_(False).eval()
    images = torch.rand(3, 3, 70, 70)
    ours = scripts[1].Estimator(model, images).extrinsics(None, "exact")
    theirs = model(images[None])["extrinsic"][0].double().numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())
    errors = np.maximum(*pair_errors(ours, theirs))
    assert auc(undirected(errors), 5) == 1.0
