"""`covis sweep`: its settings, its results that can be resumed, its tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covis.cli import run_command
from covis.commands.demo import demo_bundle
from covis.commands.sweep import SweepCommand, make_sweep
from covis.engines.errors import user_error
from covis.engines.options import RunOptions, Sparsity
from covis.evaluation.accuracy.scoring import ScoreOptions
from covis.evaluation.datasets.covisibility import true_covisibility
from covis.evaluation.datasets.synthetic import SyntheticScenes
from covis.evaluation.sweep import sweep as sweeps
from covis.evaluation.sweep.axes import SweepAxes
from covis.evaluation.sweep.coverage import most_covering
from covis.evaluation.sweep.pairs import pair_map, random_score
from covis.evaluation.sweep.report import markdown, pareto, row
from covis.evaluation.sweep.settings import layer_words, settings
from covis.runtime.pipeline import Pipeline, load
from covis.synthetic import HELD_OUT_SEEDS

DATA = f"studio/scatter/{HELD_OUT_SEEDS.start}-{HELD_OUT_SEEDS.start + 1}/5"
SMALL = (
    *("--views", "4", "--metrics", "pose", "--taus", "0.0", "1.0", "--selectors", "saliency"),
    *("--layers", "third", "all", "--shares", "0.75", "--drops", "--no-pictures", "--threads", "1"),
    *("--anchors", "2", "--anchor-shares", "0.75", "--anchor-choices", "kcenter", "random"),
    *("oracle", "--min-neighbours", "0", "--schedules", "gotohunt", "0:self, rest:anchors"),
)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small sweep of the bundle that ships, through the command line."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    arguments = ["sweep", str(demo_bundle()), "synthetic", DATA, "--out", str(out), *SMALL]
    assert run_command(arguments) == 0
    return out


def command(out: Path, **changes: Any) -> SweepCommand:
    """Return the same sweep as an object, with some axes changed."""
    axes = SweepAxes(
        (0.0, 1.0),
        ("saliency",),
        layers=("third", "all"),
        shares=(0.75,),
        drops=True,
        anchors=(2,),
        anchor_shares=(0.75,),
        anchor_choices=("kcenter", "random", "oracle"),
        min_neighbours=(0,),
        schedules=("gotohunt", "0:self, rest:anchors"),
    )
    values: dict[str, Any] = {
        "bundle": demo_bundle(), "dataset": "synthetic", "paths": (DATA,), "out": out, "views": 4,
        "metrics": ("pose",), "pictures": False, "run": RunOptions(threads=1),
        "axes": replace(axes, **changes),
    }  # fmt: skip
    return SweepCommand(**values)


def test_what_it_measures(swept: Path) -> None:
    rows = {r["name"]: r for r in json.loads((swept / "sweep.json").read_text())["rows"]}
    dense, kept, alone = (
        rows[name] for name in ("dense", "saliency-tau0-all", "saliency-tau1-all")
    )
    depth = rows["saliency-tau1-all"]["sparse_layers"]
    assert dense["scenes"] == 2 and dense["pairs"] == 12 and dense["attention_work"] == 1.0
    assert kept["kept_pairs"] == 16 and kept["attention_work"] == 1.0
    for threshold in (30, 15, 5, 3):
        assert kept[f"auc{threshold}"] == dense[f"auc{threshold}"]
    assert alone["attention_work"] == pytest.approx(alone["relative_blocks"], abs=1e-6)
    third = rows[f"saliency-tau1-{layer_words('third', depth)}"]
    expected = 1 - third["sparse_layers"] / depth * (1 - third["relative_blocks"])
    assert third["attention_work"] == pytest.approx(expected)
    for source in ("saliency", "random", "oracle"):
        assert rows[f"{source}-share0.75-all"]["relative_blocks"] == 0.75
        assert rows[f"{source}-share0.75-all"]["pairs_source"] == source
    for choice in ("kcenter", "random0", "oracle"):
        few, more = (rows[f"anchors-{choice}-{n}-neighbours0"] for n in (2, 3))
        assert 0 < few["attention_work"] < more["attention_work"] < 1
        assert few["sparsity"]["anchors"] == 2 and few["choice"] == choice.rstrip("0")
    # Three of four views for all, in all layers but those that attend within frames.
    schedule = next(r for name, r in rows.items() if name.startswith("schedule-0-self"))
    assert schedule["schedule"] == "0:self, rest:anchors"
    published, default = rows["schedule-gotohunt"], rows["anchors-kcenter-3-neighbours0"]
    assert published["attention_work"] < default["attention_work"]


def test_tables_hold_those_numbers(swept: Path) -> None:
    text = (swept / "tables.md").read_text()
    rows = {r["name"]: r for r in json.loads((swept / "sweep.json").read_text())["rows"]}
    for title in ("Pairs by tau", "AUC@30 by L", "selector of pairs", "which layers are sparse"):
        assert title in text, title
    alone = rows["saliency-tau1-all"]
    assert f"| 1 | {alone['kept_pairs']:.1f} | {alone['relative_blocks']:.1%} |" in text
    cells = [f"{100 * rows[f'saliency-tau{tau}-all']['auc30']:.1f}" for tau in (0, 1)]
    depth = alone["sparse_layers"]
    assert f"| {depth} of {depth} | {' | '.join(cells)} |" in text
    dense, anchors = rows["dense"], rows["anchors-kcenter-2-neighbours0"]
    aucs = [f"{100 * anchors[f'auc{t}']:.1f}" for t in (30, 15, 5, 3)]
    line = ["2", "own frame", f"{anchors['attention_work']:.1%}", *aucs]
    assert f"| {' | '.join(line)} |" in text
    oracle = rows["anchors-oracle-2-neighbours0"]
    for t in (30, 5):
        loss = 100 * (oracle[f"auc{t}"] - dense[f"auc{t}"])
        table = text[text.index(f"AUC@{t} by choice of anchors") :]
        assert "| anchors | beside them | kcenter | random, seed 0 | oracle |" in table
        assert f"| {100 * oracle[f'auc{t}']:.1f} ({loss:+.1f}) |" in table.split("**")[1]
    assert "| `gotohunt` | 3 |" in text and "| `0:self, rest:anchors` | 3 |" in text
    frontier = text[text.index("Pareto frontier") :]
    assert "oracle" not in frontier and "random" not in frontier


def test_nothing_is_run_twice_and_nothing_lost(
    swept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One result of the sweep goes missing, one is cut short: just these two come again."""
    before = json.loads((swept / "sweep.json").read_text())["rows"]
    whole = make_sweep(command(swept))
    scenes = whole.job.dataset.scenes()
    assert whole.missing(scenes) == 0
    gone = [whole.results[name].path(scenes[1].name) for name in ("dense", "oracle-share0.75-all")]
    gone[0].unlink()
    gone[1].write_bytes(gone[1].read_bytes()[:100])
    assert whole.missing(scenes) == 2
    ran: list[tuple[str, str]] = []
    whole.run(scenes, lambda scene, name: ran.append((scene, name)))
    assert ran == [(scenes[1].name, "dense"), (scenes[1].name, "oracle-share0.75-all")]
    assert whole.missing(scenes) == 0
    for old in before:
        setting = next(s for s in whole.settings if s.name == old["name"])
        new = row(setting, whole.records(setting, scenes))
        assert (new["auc30"], new["kept_pairs"]) == (old["auc30"], old["kept_pairs"])


def test_an_interruption_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_sweep(command(tmp_path / "out", layers=("all",), drops=False))
    scenes = whole.job.dataset.scenes()
    calls = 0

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:  # the first call loads the stages
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    real = Pipeline.__call__
    monkeypatch.setattr(Pipeline, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        whole.run(scenes)
    monkeypatch.undo()
    total = len(whole.settings) * len(scenes)
    assert (
        make_sweep(command(tmp_path / "out", layers=("all",), drops=False)).missing(scenes)
        == total - 2
    )


def test_a_scene_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["sweep", str(demo_bundle()), "synthetic", DATA, "--out", str(out), *SMALL]
    arguments += ["--taus", "0.5", "--layers", "all", "--no-drops"]
    real = SyntheticScenes.load

    def load_one(self: SyntheticScenes, ref: Any) -> Any:
        if ref.name.endswith(f"{HELD_OUT_SEEDS.start}/5"):
            raise user_error("is damaged", where="photo 3")
        return real(self, ref)

    monkeypatch.setattr(SyntheticScenes, "load", load_one)
    assert run_command(arguments) == 2
    errors = capsys.readouterr().err
    assert "photo 3: is damaged" in errors and "1 of 2 scenes could not be run; the reasons" in (
        " ".join(errors.split()).replace(f"studio/scatter/{HELD_OUT_SEEDS.start}/5: 1 of", "1 of")
    )
    assert json.loads((out / "sweep.json").read_text())["rows"][0]["scenes"] == 1
    monkeypatch.undo()
    assert run_command(arguments) == 0
    assert json.loads((out / "sweep.json").read_text())["rows"][0]["scenes"] == 2


def test_other_options_are_refused(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sweep", str(demo_bundle()), "synthetic", DATA, "--out", str(swept), *SMALL]
    assert run_command([*arguments, "--seed", "1"]) == 2
    assert "holds results of other options (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--taus", "1.5"], "--taus: holds a number outside [0, 1]"),
        (["--shares", "0"], "--shares: holds a number outside (0, 1]"),
        (["--layers", "99"], "--layers: '99' names none of the model's"),
        (["--anchors", "0"], "--anchors: holds a number outside [1, "),
        (["--anchor-shares", "2"], "--anchor-shares: holds a number outside (0, 1]"),
        (["--schedules", "0-1:some"], "--schedule: 'some' is no regime"),
        (["--schedules", "0:self"], "--schedule: leaves out layer 1 of the model's"),
        (["--also", "/nowhere"], "/nowhere: no such bundle folder"),
        (["--limit", "-1"], "--limit: -1 is negative"),
    ],
)
def test_bad_arguments(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["sweep", str(demo_bundle()), "synthetic", DATA, "--out", str(out), *SMALL]
    assert run_command([*arguments, *more]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_random_and_true_pairs_are_what_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The map of a share reaches the pipeline, of the right source."""
    maps: dict[str, Any] = {}
    dataset = SyntheticScenes((DATA,), (112, 112), shadows=False)
    truth = dataset.load(dataset.scenes()[0])
    loaded = load(demo_bundle())
    run = sweeps._SceneRun(loaded, truth, ScoreOptions(metrics=("pose",)), seed=7)
    real = Pipeline.__call__

    def spy(self: Pipeline, photos: Any, **kwargs: Any) -> Any:
        scene = real(self, photos, **kwargs)
        if kwargs.get("pair_level") is not None:
            maps[name] = scene.pair_level
        return scene

    monkeypatch.setattr(Pipeline, "__call__", spy)
    axes = SweepAxes(taus=(), selectors=(), layers=("all",), shares=(0.6,), anchors=())
    similarity = loaded(run.images).similarity
    for setting in settings(axes, Sparsity(), loaded.bundle.manifest.model.global_layers)[1:]:
        name = setting.pairs
        record = run(setting)
        assert record["kept_pairs"] == 15
    seen = true_covisibility(truth, run.images.original_sizes)
    assert similarity is not None and seen is not None
    np.testing.assert_array_equal(maps["saliency"], pair_map(similarity, 0.6))
    np.testing.assert_array_equal(maps["random"], pair_map(random_score(5, 7), 0.6))
    np.testing.assert_array_equal(maps["oracle"], pair_map(seen, 0.6))


def test_true_anchors_are_what_is_run() -> None:
    """The oracle's anchors reach the graph; no other choice is replaced."""
    dataset = SyntheticScenes((DATA,), (112, 112), shadows=False)
    truth = dataset.load(dataset.scenes()[0])
    loaded = load(demo_bundle())
    run = sweeps._SceneRun(loaded, truth, ScoreOptions(metrics=("pose",)), seed=0)
    axes = SweepAxes(taus=(), selectors=(), layers=("all",), shares=(), anchors=(3,))
    given = {s.choice: run._given(s) for s in settings(axes, Sparsity(), 8) if s.kind == "anchors"}
    seen = true_covisibility(truth, run.images.original_sizes)
    assert seen is not None
    expected = most_covering(seen, 3, first=0)
    np.testing.assert_array_equal(given.pop("oracle")["anchor_order"], expected)
    assert set(given) == {"kcenter", "uniform", "random", "similar"} and not any(given.values())


def test_the_frontier() -> None:
    points = [(1.0, 0.9), (0.5, 0.9), (0.4, 0.7), (0.45, 0.6), (0.1, 0.2), (0.1, 0.1)]
    rows = [{"attention_work": cost, "auc30": gain} for cost, gain in points]
    best = [(r["attention_work"], r["auc30"]) for r in pareto(rows)]
    assert best == [(0.1, 0.2), (0.4, 0.7), (0.5, 0.9)]
    assert pareto([{"attention_work": None, "auc30": 1.0}]) == []


def test_no_tables_of_nothing() -> None:
    assert markdown([], 8) == "\n"


def test_pictures(swept: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    from covis.evaluation.sweep import pictures

    rows = json.loads((swept / "sweep.json").read_text())["rows"]
    kinds = (
        pictures.draw_pareto,
        pictures.draw_pairs,
        pictures.draw_drops,
        pictures.draw_anchors,
    )
    for index, draw in enumerate(kinds):
        path = draw(rows, tmp_path / f"{index}.png")
        assert path is not None
        with Image.open(path) as picture:
            colours = picture.convert("RGB").getcolors(1 << 20)
        assert min(picture.size) > 300 and colours is not None and len(colours) > 20
    for draw in (pictures.draw_pairs, pictures.draw_drops, pictures.draw_anchors):
        assert draw([replace_kind(r) for r in rows], tmp_path / "x.png") is None


def replace_kind(r: dict[str, Any]) -> dict[str, Any]:
    return {**r, "kind": "dense"}
