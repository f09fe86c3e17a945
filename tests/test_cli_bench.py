"""`covis bench` on the CPU, and the pieces of it that a GPU shares."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from covis.cli import run_command
from covis.engines.errors import CovisError
from covis.engines.options import RunOptions, Sparsity
from covis.evaluation.bench.measure import Schedule, Setting, measure, random_images
from covis.evaluation.bench.settings import named_setting
from covis.runtime.pipeline import load

Captured = pytest.CaptureFixture[str]
QUICK = ("--iterations", "2", "--duration", "0", "--warmUp", "0")


def test_dense_beside_sparse(tiny_bundle: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "times.json"
    arguments = ["bench", str(tiny_bundle), "--views", "5", *QUICK, "--exportTimes", str(out)]
    assert run_command([*arguments, "--percentile", "50", "99", "--selector", "pooled"]) == 0
    record = json.loads(out.read_text())
    assert list(record["settings"]) == ["dense", "pooled"]
    assert (record["views"], record["chunk"], record["photos"]) == (5, 2, "made")
    assert record["absolute_times"] == "of a CPU: use the ratios" and record["device"] == "cpu"
    for name, setting in record["settings"].items():
        stages = setting["stages"]
        aggregator = "aggregator_pooled" if name == "pooled" else "aggregator"
        assert list(stages) == ["encoder", "saliency", aggregator, "camera", "depth", "points"]
        assert all(s["latency_ms"]["runs"] == 2 for s in stages.values())
        assert list(setting["latency_ms"]["percentiles"]) == ["50", "99"]
        total = sum(s["latency_ms"]["mean"] for s in stages.values())
        assert 0 < total <= setting["latency_ms"]["mean"]
        assert all(s["memory_bytes"] > 1 << 20 for s in stages.values())
    assert set(record["speedup"]) == {"pooled"}
    assert {"whole", "aggregator_pooled"} <= set(record["speedup"]["pooled"])
    told = capsys.readouterr().out
    assert "CPU ms" in told and "only the speed-ups can be compared" in told


def test_further_settings_by_name(tiny_bundle: Path, tmp_path: Path, capsys: Captured) -> None:
    """Five views are dense by `auto`, so that the settings of --also are compared with it."""
    out = tmp_path / "times.json"
    arguments = ["bench", str(tiny_bundle), "--views", "5", *QUICK, "--exportTimes", str(out)]
    also = ["--also", "light", "anchors=2", "gotohunt", "0:self, rest:dense"]
    assert run_command([*arguments, *also]) == 0
    record = json.loads(out.read_text())
    schedules = {name: setting["schedule"] for name, setting in record["settings"].items()}
    assert schedules == {
        "dense": "0-3:dense",
        "light": "0-1:anchors=10, 2-3:dense",
        "anchors=2": "0-1:anchors=1, 2-3:anchors=2",
        "gotohunt": "0-1:anchors=10, 2-3:anchors=25",
        "0:self, rest:dense": "0:self, 1-3:dense",
    }
    assert record["settings"]["gotohunt"]["sparsity"]["own_frame"] is False
    assert set(record["speedup"]) == set(schedules) - {"dense"}
    assert "gotohunt (0-1:anchors=10, 2-3:anchors=25): " in capsys.readouterr().out


def test_nothing_to_compare_is_said(tiny_bundle: Path, capsys: Captured) -> None:
    assert run_command(["bench", str(tiny_bundle), "--views", "3", *QUICK]) == 0
    assert "only dense is measured, which is the selector of 3 views" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("dense", Sparsity(selector="dense")),
        ("anchors=10", Sparsity(selector="anchors", anchors=10)),
        ("saliency=0.5", Sparsity(selector="saliency", tau=0.5)),
        ("pooled=0.5", Sparsity(selector="pooled", keep_ratio=0.5)),
        ("saliency+pooled=0.5", Sparsity(selector="both", keep_ratio=0.5)),
        ("self", Sparsity(selector="anchors", schedule="all:self")),
        ("anchors=4+pooled", Sparsity(selector="anchors", schedule="all:anchors=4+pooled")),
        ("all:anchors=4", Sparsity(selector="anchors", schedule="all:anchors=4")),
        ("sparse-vggt", Sparsity(selector="pooled")),
    ],
)
def test_a_setting_by_name(word: str, expected: Sparsity) -> None:
    assert named_setting(word, Sparsity()) == expected


def test_photos_are_repeated(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "times.json"
    arguments = ["--photos", str(photos), "--views", "6", "--exportTimes", str(out)]
    assert run_command(["bench", str(tiny_bundle), *arguments, *QUICK, "--against", "dense"]) == 0
    record = json.loads(out.read_text())
    assert record["views"] == 6 and list(record["settings"]) == ["dense"]
    assert record["speedup"] == {}


def test_settings_take_turns(tiny_bundle: Path) -> None:
    pipeline = load(tiny_bundle, RunOptions(chunk=4))
    images = random_images(3, pipeline.bundle.manifest.pixel_rule)
    order: list[tuple[str, int]] = []
    sparsity = Sparsity(selector="saliency", layers="0-1")
    kept = pipeline.pair_maps(2 * np.eye(3, dtype=np.int8), 3, sparsity)
    assert kept.shape == (2, 3, 3)  # that of the pairs, and that of the dense layers
    settings = {
        "a": Setting(Sparsity(selector="dense")),
        "b": Setting(sparsity, kept),
    }
    samples = measure(
        pipeline, images, settings, Schedule(0, 3, 0), lambda name, run: order.append((name, run))
    )
    assert order == [("a", 1), ("b", 1), ("b", 2), ("a", 2), ("a", 3), ("b", 3)]
    assert all(len(taken.whole) == 3 for taken in samples.values())


def test_made_pictures_are_the_same_everywhere(tiny_bundle: Path) -> None:
    rule = load(tiny_bundle).bundle.manifest.pixel_rule
    a, b = random_images(2, rule), random_images(2, rule)
    assert a.uint8.shape == (2, 3, rule.height, rule.width)
    np.testing.assert_array_equal(a.uint8, b.uint8)
    assert a.uint8.std() > 40
    assert not np.array_equal(a.uint8[0], a.uint8[1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--views", "0"], "--views: 0 views cannot be measured"),
        (["--views", "99999999999"], "--views: 99999999999 is above 20,000"),
        (["--duration", "inf"], "--duration: would never end"),
        (["--warmUp", "1e400"], "--warmUp: would never end"),
        (["--threads", "2147483648"], "--threads: 2147483648 is above 1,024"),
        (["--exportTimes", "/dev/null"], "/dev/null: is no ordinary file, and is not replaced"),
        (["--iterations", "0"], "--iterations: 0 is below 1"),
        (["--warmUp", "-1"], "--warmUp: -1.0 is below 0"),
        (["--avgRuns", "0"], "--avgRuns: 0 is below 1"),
        (["--percentile", "101"], "--percentile: 101 is not in (0, 100]"),
        (["--provider", "tpu"], "tpu"),
        (["--also", "near"], "setting: 'near' names no setting; give gotohunt, sparse-vggt, a"),
    ],
)
def test_wrong_options(tiny_bundle: Path, capsys: Captured, options: list[str], words: str) -> None:
    assert run_command(["bench", str(tiny_bundle), *options]) == 2
    assert words in capsys.readouterr().err


def test_schedule_refuses_what_is_not_a_number() -> None:
    with pytest.raises(CovisError, match="--duration"):
        Schedule(duration=float("nan"))
