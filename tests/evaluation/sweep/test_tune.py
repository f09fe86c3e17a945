"""`covis tune`: the cheapest setting within the bounds on drift is found and written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from covis.cli import run_command
from covis.commands.demo import demo_bundle
from covis.commands.tune import degrees, share
from covis.engines.bundle.bundle import open_bundle
from covis.engines.bundle.folder import MANIFEST
from covis.engines.errors import CovisError
from covis.engines.options import RunOptions, Sparsity
from covis.evaluation.metrics.drift import scene_drift
from covis.evaluation.sweep.tune import Tuner, candidates, subsets
from covis.runtime.pipeline import Pipeline, load
from covis.synthetic import (
    HELD_OUT_SEEDS,
    SceneSpec,
    build,
    camera_path,
    render,
    write_photos,
)
from tests.runtime.scene.random_scene import random_scene


def test_subsets_are_even_and_apart() -> None:
    photos = [Path(f"{i}.jpg") for i in range(20)]
    first, others = subsets(photos, 6)
    assert len(first) == 6 and first[0] == photos[0] and first[-1] == photos[-1]
    assert len(others) == 6 and not set(first) & set(others)
    assert subsets(photos[:5], 8) == (photos[:5], [])
    assert subsets(photos[:8], 6)[1] == []  # two others are no check
    for wrong in (lambda: subsets(photos[:1], 8), lambda: subsets(photos, 1)):
        with pytest.raises(CovisError):
            wrong()


def test_candidates_rise_in_cost_and_keep_what_they_say() -> None:
    scene = random_scene(12)
    assert scene.similarity is not None
    base = Sparsity("saliency", min_neighbours=2, low_precision=True, order="hilbert")
    found = candidates(scene.similarity, base, 8, reference=True)
    costs = [candidate.work for candidate in found]
    assert costs == sorted(costs) and 0 < costs[0] < 0.3 and costs[-1] < 1
    kinds = {"anchors", "light", "saliency"}
    assert {c.sparsity.selector for c in found} == kinds | {"pooled", "both"}
    for candidate in found:
        assert candidate.sparsity.min_neighbours == 2 and candidate.sparsity.order == "hilbert"
        assert not candidate.sparsity.low_precision
    assert len({c.sparsity for c in found}) == len(found) < 100
    plain = candidates(scene.similarity, base, 8, reference=True, pooled=False)
    assert {c.sparsity.selector for c in plain} == kinds


def test_numbers_of_anchors_are_below_the_views() -> None:
    """More anchors would leave out nothing; each number is tried in three places."""
    similarity = random_scene(30).similarity
    assert similarity is not None
    found = candidates(similarity, Sparsity(schedule="", selector="auto"), 8, reference=True)
    settings = [c.sparsity for c in found if c.sparsity.selector in ("anchors", "light")]
    assert {s.anchors for s in settings} == {5, 10, 25}
    assert {(s.selector, s.layers) for s in settings} == {
        ("anchors", "default"),
        ("anchors", "all"),
        ("light", "default"),
    }
    work = {(c.sparsity.selector, c.sparsity.layers, c.sparsity.anchors): c.work for c in found}
    assert work["anchors", "all", 5] < work["anchors", "all", 25]
    assert work["anchors", "default", 25] < work["light", "default", 25]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune") / "photos"
    # Close views: far apart, this small model loses its way in every sparse setting.
    world = build(SceneSpec(HELD_OUT_SEEDS.start, "room"))
    write_photos(folder, render(world, camera_path(world, 9, "arc"), 112, 112, supersample=2))
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the bundle that ships, to be written to."""
    return Path(shutil.copytree(demo_bundle(), tmp_path / "bundle"))


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load(demo_bundle(), RunOptions(threads=1, chunk=8))


def test_expected_work_is_the_work_done(pipeline: Pipeline, photos: Path) -> None:
    """Candidates are sorted by the work that a run of them reports (pairs of views: exactly)."""
    scene = pipeline(photos)
    manifest = pipeline.bundle.manifest
    assert scene.similarity is not None
    depth, reference = manifest.model.global_layers, manifest.model.reference_view
    found = candidates(scene.similarity, manifest.sparsity, depth, reference)
    pairs = [c for c in found if c.sparsity.selector in ("saliency", "anchors", "light")]
    assert {c.sparsity.selector for c in pairs} == {"saliency", "anchors", "light"}
    for candidate in [*pairs[::5], *(c for c in pairs if c.sparsity.selector != "saliency")]:
        done = pipeline(photos, sparsity=candidate.sparsity).sparsity
        assert done is not None
        assert done.attention_work == pytest.approx(candidate.work, abs=1e-6)


def test_the_cheapest_within_the_bounds_is_written(
    bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = open_bundle(bundle)
    digest = before.digest()
    arguments = ["tune", str(bundle), str(photos), "--views", "5", "--threads", "1"]
    bounds = ["--max-drift", "60deg", "--max-depth-drift", "90%"]
    assert run_command([*arguments, *bounds]) == 0
    after = open_bundle(bundle).manifest
    receipt = after.tuning
    assert receipt is not None and receipt.tuned_manifest == digest
    assert receipt.views == 5 and receipt.checked_views == 4
    assert (receipt.max_pose_drift, receipt.max_depth_drift) == (60.0, 0.9)
    assert receipt.pose_drift <= 60 and receipt.depth_drift <= 0.9
    assert (
        after.model_copy(
            update={"sparsity": before.manifest.sparsity, "tuning": before.manifest.tuning}
        )
        == before.manifest
    )  # nothing else has changed
    assert after.sparsity.selector != "dense" and receipt.attention_work < 0.9
    # A separate run of the written setting has the drift in the receipt.
    tuned = load(bundle, RunOptions(threads=1, chunk=8))
    for subset in subsets(sorted(photos.iterdir()), 5):
        dense = tuned(subset, sparsity=replace(after.sparsity, selector="dense"))
        again = scene_drift(tuned(subset), dense)
        assert again.pose_deg <= receipt.pose_drift * 1.001 + 1e-3
        assert again.depth_rel <= receipt.depth_drift * 1.001 + 1e-5
    assert "within 60° and 90.00% of dense on 5 photos, checked on 4 other" in (
        " ".join(capsys.readouterr().out.split())
    )


def test_a_bound_that_only_dense_holds(
    bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["tune", str(bundle), str(photos), "--views", "4", "--threads", "1"]
    bounds = ["--max-drift", "0.000001", "--max-depth-drift", "0.0000001%"]
    manifest = (bundle / MANIFEST).read_bytes()
    assert run_command([*arguments, *bounds, "--dry-run"]) == 0
    assert (bundle / MANIFEST).read_bytes() == manifest
    out = capsys.readouterr().out
    assert "dense only: none of" in out and "the bundle is unchanged" in out
    assert run_command([*arguments, *bounds]) == 0
    written = json.loads((bundle / MANIFEST).read_text())
    assert written["sparsity"]["selector"] == "dense"
    assert written["tuning"]["attention_work"] == 1.0 and written["tuning"]["tried"] > 0


def test_a_schedule_of_the_bundle_does_not_hide_the_candidates(
    pipeline: Pipeline, photos: Path
) -> None:
    """A bundle that was tuned before has a schedule; each candidate runs by its own."""
    similarity = pipeline(photos, sparsity=Sparsity("dense")).similarity
    assert similarity is not None
    tuned = Sparsity("anchors", schedule="0-7:self")
    plain = candidates(similarity, Sparsity(), 8, reference=True)
    assert candidates(similarity, tuned, 8, reference=True) == plain


def test_no_cheaper_trial_was_within_the_bounds(pipeline: Pipeline, photos: Path) -> None:
    outcome = Tuner(pipeline, pose=40.0, depth=0.5)(sorted(photos.iterdir()), 5)
    for trial in outcome.trials[:-1]:
        assert not trial.within(40.0, 0.5)
    if outcome.best is not None:
        assert outcome.trials[-1] is outcome.best and outcome.best.within(40.0, 0.5)


@pytest.mark.parametrize(
    ("text", "value"), [("0.5deg", 0.5), ("0.5°", 0.5), (" 2 ", 2.0), (".25 deg", 0.25)]
)
def test_degrees(text: str, value: float) -> None:
    assert degrees(text) == value


@pytest.mark.parametrize(("text", "value"), [("1%", 0.01), ("0.01", 0.01), ("12.5 %", 0.125)])
def test_shares(text: str, value: float) -> None:
    assert share(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--max-drift", "half"], "--max-drift: 'half' is no positive bound; write e.g."),
        (["--max-drift", "0deg"], "is no positive bound"),
        (["--max-drift", "0.5rad"], "is no positive bound"),
        (["--max-depth-drift", "-1%"], "no positive bound"),
        (["--views", "1"], "--views: 1 is below 2"),
    ],
)
def test_bad_arguments(
    more: list[str], message: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option, value = more
    assert run_command(["tune", str(demo_bundle()), str(photos), f"{option}={value}"]) == 2
    assert message in capsys.readouterr().err
