"""`covis profile`: table, files, and the schedule in the manifest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from covis.cli import run_command
from covis.engines.bundle.bundle import open_bundle
from covis.engines.bundle.folder import MANIFEST
from covis.engines.options import RunOptions, Sparsity
from covis.evaluation.metrics.drift import scene_drift
from covis.evaluation.sweep.tune import subsets
from covis.runtime.pipeline import load
from covis.synthetic.photos import demo_scene, write_photos
from tests.places import DEMO

Captured = pytest.CaptureFixture[str]
QUICK = ["--threads", "1", "--chunk", "4"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profile") / "photos"
    write_photos(folder, demo_scene(6, 112, 112, family="studio"))
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the bundle that ships, to be written to."""
    return Path(shutil.copytree(DEMO, tmp_path / "bundle"))


def test_the_proposal_is_drawn_and_written(
    bundle: Path, photos: Path, tmp_path: Path, capsys: Captured
) -> None:
    """Bounds that nothing exceeds: the cheapest regime in every layer, checked on three others."""
    before, out = open_bundle(bundle), tmp_path / "new" / "profile"
    bounds = ["--max-drift", "180deg", "--max-depth-drift", "100"]
    words = ["profile", str(bundle), str(photos), "--views", "3", "--regimes", "self", "anchors=3"]
    assert run_command([*words, *bounds, *QUICK, "--out", str(out), "--write"]) == 0
    after = open_bundle(bundle).manifest
    assert (after.sparsity.selector, after.sparsity.schedule) == ("anchors", "0-7:self")
    record = after.tuning
    assert record is not None and record.tuned_manifest == before.digest()
    assert (record.views, record.checked_views) == (3, 3)
    assert record.attention_work == pytest.approx(1 / 3) and record.time_ratio > 0
    assert (
        after.model_copy(
            update={"sparsity": before.manifest.sparsity, "tuning": before.manifest.tuning}
        )
        == before.manifest
    )  # nothing else has changed
    pipeline = load(bundle, RunOptions(threads=1, chunk=4))
    for subset in subsets(sorted(photos.iterdir()), 3):  # the drift in the record is that of a run
        drift = scene_drift(pipeline(subset), pipeline(subset, sparsity=Sparsity("dense")))
        assert drift.pose_deg <= record.pose_drift * 1.001 + 1e-3
        assert drift.depth_rel <= record.depth_drift * 1.001 + 1e-5
    report = json.loads((out / "profile.json").read_text())
    assert report["bundle"] == before.digest() and len(report["photos"]) == 3
    assert report["proposed"] == ["self"] * 8 and report["sparsity"]["schedule"] == "0-7:self"
    assert [row["layer"] for row in report["layers"]] == list(range(8))
    assert all(row["regime"] == "self" and row["change"] > 0 for row in report["layers"])
    (trial,) = report["trials"][-1:]
    assert trial["schedule"] == "0-7:self" and trial["work"] == pytest.approx(1 / 3)
    assert trial["pose_deg"] == record.pose_drift and trial["depth_rel"] == record.depth_drift
    with Image.open(out / "profile.png") as picture:
        assert picture.format == "PNG" and picture.width > 1000
    printed = capsys.readouterr()
    assert "anchors=3 is not measured: it computes all pairs of 3 views" in printed.err
    written = [str(out / "profile.json"), str(out / "profile.png"), str(bundle / MANIFEST)]
    assert printed.out.splitlines()[-3:] == written
    line = "anchors, layers 0-7:self: 33.3% of global attention, within 180° and 10000.00% of dense"
    assert line in " ".join(printed.out.split())


def test_bounds_that_only_dense_holds_change_nothing_unasked(
    bundle: Path, photos: Path, capsys: Captured
) -> None:
    manifest = (bundle / MANIFEST).read_bytes()
    words = ["profile", str(bundle), str(photos), "--views", "2", "--regimes", "self", *QUICK]
    assert run_command([*words, "--max-drift", "0.000001", "--max-depth-drift", "0.0000001%"]) == 0
    assert (bundle / MANIFEST).read_bytes() == manifest
    out = " ".join(capsys.readouterr().out.split())
    assert "dense only: no schedule of these regimes stays within the bounds" in out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--max-drift", "half"], "--max-drift: 'half' is no positive bound; write e.g."),
        (["--max-depth-drift", "-1%"], "no positive bound"),
        (["--views", "1"], "--views: 1 is below 2"),
        (["--regimes", "near"], "--regimes: 'near' is no regime; use e.g. self, saliency=0.9"),
        (["--regimes", "anchors=0"], "--regimes: '0' in 'anchors=0' is no number of anchors"),
        (["--regimes", "dense"], "--regimes: names no regime that leaves out a pair of the 6"),
        (["--backend", "tensorrt"], "--backend tensorrt: does not show single layers; use cpu"),
    ],
)
def test_bad_arguments(more: list[str], message: str, photos: Path, capsys: Captured) -> None:
    option, value = more
    assert run_command(["profile", str(DEMO), str(photos), f"{option}={value}", *QUICK]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_with_other_files_is_refused_before_the_work(
    photos: Path, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "notes.txt").touch()
    words = ["profile", str(DEMO), str(photos), "--out", str(tmp_path)]
    assert run_command(words) == 2
    assert "exists and holds no profile; choose another --out" in capsys.readouterr().err
