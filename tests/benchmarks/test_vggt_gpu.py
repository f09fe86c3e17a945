"""The parts of the GPU benchmark that need no GPU, and the whole of it, tiny, on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.vggt_gpu import find_tau, fit, kept_pairs, main, select, synthetic_pairs
from covis.engines.errors import GpuOutOfMemoryError
from covis.engines.options import Sparsity
from covis.evaluation.bench.measure import random_images
from covis.runtime.pipeline import load


def similarity(views: int, seed: int = 0) -> np.ndarray:
    features = np.random.default_rng(seed).standard_normal((views, 6))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return (features @ features.T).astype(np.float32)


@given(st.integers(2, 40), st.floats(0.02, 1.0), st.sampled_from([-1, 0]))
def test_tau_is_the_largest_that_keeps_the_share(views: int, share: float, reference: int) -> None:
    matrix = similarity(views)
    tau, kept = find_tau(matrix, share, reference)
    assert 0.0 <= tau <= 1.0
    assert kept == kept_pairs(matrix, tau, reference).mean()
    everything = kept_pairs(matrix, 0.0, reference).mean()
    assert kept >= min(share, everything)
    larger = matrix[matrix > np.float32(tau)]
    if larger.size and larger.min() <= 1.0:
        assert (
            kept_pairs(matrix, float(larger.min()), reference).mean() < share
            or kept == 1.0
            or (kept_pairs(matrix, float(larger.min()), reference).mean() == kept)
        )


def test_the_rule_is_that_of_the_saliency_graph(tiny_bundle: Path) -> None:
    """What the benchmark reckons with is what a run with that tau keeps."""
    pipeline = load(tiny_bundle)
    images = random_images(8, pipeline.bundle.manifest.pixel_rule)
    quiet = lambda stage, done, total: None  # noqa: E731
    values = pipeline.run_stages(images, Sparsity(selector="dense"), quiet)
    tau, kept = find_tau(values["similarity"], 0.5, 0)
    sparsity = Sparsity(selector="saliency", tau=tau, layers="all")
    run = pipeline.run_stages(images, sparsity, quiet)
    assert (run["pair_levels"] > 0).mean() == pytest.approx(kept)


@pytest.mark.parametrize("share", [0.126, 0.062])
@pytest.mark.parametrize("views", [100, 500])
def test_made_maps_keep_the_published_shares(views: int, share: float) -> None:
    level = synthetic_pairs(views, share, 0)
    assert level.shape == (views, views) and level.dtype == np.int8
    kept = level > 0
    assert (kept == kept.T).all() and np.diag(kept).all() and kept[0].all() and kept[:, 0].all()
    assert set(np.unique(level)) == {0, 2}
    assert kept.mean() == pytest.approx(share, rel=0.01)
    near = kept[np.arange(2, views - 1), np.arange(3, views)]
    assert near.all()  # neighbours along the path


def test_tau_where_it_serves_and_a_made_map_where_not() -> None:
    matrix = similarity(60)
    selection, level = select(matrix, 0.126, 0)
    assert selection.pairs == "by saliency" and selection.tau is not None
    assert selection.kept == pytest.approx((level > 0).mean()) == pytest.approx(0.126, rel=0.1)
    alike = np.ones((60, 60), np.float32)
    selection, level = select(alike, 0.126, 0)
    assert selection.tau is None and selection.pairs.startswith("made, along a path")
    assert selection.kept == pytest.approx(0.126, rel=0.02)


def test_the_whole_on_the_cpu(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.json"
    options = ["--views", "6,9", "--layers", "0-1;all", "--kept", "0.5,0.4", "--iterations", "1"]
    named = ["light", "anchors=2", "0-1:self, rest:dense"]
    options += ["--settings", *named]
    main([str(tiny_bundle), *options, "--backend", "cpu", "--weights", "random",
          "--most", "7", "--out", str(out)])  # fmt: skip
    record = json.loads(out.read_text())
    assert record["weights"] == "random" and record["absolute_times"].startswith("of a CPU")
    assert record["published_set_up"] is False and len(record["commit"]) > 6
    assert [run["views"] for run in record["runs"]] == [6, 9]
    assert record["most"]["views"] == 7 and record["most"]["seconds"] > 0
    names = ["dense", *named, "layers 0-1, 50.0%", "layers all, 50.0%", "layers 0-1, 40.0%",
             "layers all, 40.0%"]  # fmt: skip
    for run in record["runs"]:
        assert list(run["settings"]) == names
        work = {name: run["settings"][name]["attention_work"] for name in names}
        views = run["views"]
        assert work["dense"] == work["light"] == 1  # its 10 anchors are all views
        assert work["0-1:self, rest:dense"] == pytest.approx((2 / views + 2) / 4)
        assert work["anchors=2"] < 1
        for name in names[1:]:
            entry = run["settings"][name]
            assert entry["speedup"]["aggregator"] > 0
            if name in named:
                continue
            assert abs(entry["selection"]["kept"] - entry["selection"]["wanted"]) < 0.1
    assert capsys.readouterr().out.count("\n| ") == 17


def test_as_many_views_as_fit(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = load(tiny_bundle)
    most = [5]

    def check(run: object, views: int, chunk: int, probes: int) -> None:
        if views > most[0]:
            hint = f"use at most {most[0]} views" if most[0] else "use a smaller --chunk"
            raise GpuOutOfMemoryError(f"{views} views", hint=hint, views=most[0] or None)

    monkeypatch.setattr(pipeline.backend, "check", check)
    found = fit(pipeline, 8, 0.5)
    assert (found["asked"], found["views"]) == (8, 5) and found["seconds"] > 0
    [refusal] = found["refused"]
    assert refusal["views"] == 8 and "use at most 5 views" in refusal["said"]
    most[0] = 0
    found = fit(pipeline, 8, 0.5)
    assert found["views"] is None and "smaller --chunk" in found["refused"][0]["said"]
