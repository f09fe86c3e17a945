"""`covis profile`: what each regime does in each layer, and the schedule that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from covis.engines.bundle.names import AGGREGATOR
from covis.engines.bundle.verified import verified_onnx
from covis.engines.errors import CovisError, ExitCode
from covis.engines.op import ATTENTION, DOMAIN
from covis.engines.options import BackendOptions, RunOptions, Sparsity
from covis.engines.regime import Regime, parse_regime, parse_schedule
from covis.evaluation.metrics.drift import Drift, scene_drift
from covis.evaluation.sweep.encoded import EncodedViews, Observer
from covis.evaluation.sweep.observed import global_attention, observed_graph
from covis.evaluation.sweep.profile import Effect, layer_effects, measurable, with_schedule
from covis.evaluation.sweep.propose import propose, schedules, trial_row
from covis.evaluation.sweep.tune import Trial
from covis.runtime.pipeline import Pipeline, load
from covis.synthetic.photos import demo_scene, write_photos
from tests.places import DEMO
from tests.runtime.scene.random_scene import random_scene

DEPTH = 8
BASE = Sparsity(min_neighbours=0)  # so that anchors leave out pairs of four views
SELF, ANCHOR = Regime("self"), Regime("anchors", anchors=1)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load(DEMO, RunOptions(threads=1, chunk=4))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("profile") / "photos"
    return write_photos(folder, demo_scene(8, 112, 112, family="studio"))


@pytest.fixture(scope="module")
def views(pipeline: Pipeline, photos: list[Path]) -> EncodedViews:
    return EncodedViews(pipeline, pipeline.load_photos(photos[::2]))


@pytest.fixture(scope="module")
def others(pipeline: Pipeline, photos: list[Path]) -> EncodedViews:
    return EncodedViews(pipeline, pipeline.load_photos(photos[1::2]))


@pytest.fixture(scope="module")
def effects(views: EncodedViews) -> list[Effect]:
    return layer_effects(views, (SELF, ANCHOR), BASE)


def only(layer: int, regime: Regime) -> Sparsity:
    regimes = [Regime()] * DEPTH
    regimes[layer] = regime
    return with_schedule(BASE, regimes)


def test_a_run_of_encoded_views_is_a_run_of_the_pipeline(
    pipeline: Pipeline, views: EncodedViews, photos: list[Path]
) -> None:
    options = with_schedule(BASE, parse_schedule("0-2:self, 3-7:anchors=2", DEPTH))
    run, scene = views.run(options), pipeline(photos[::2], sparsity=options)
    np.testing.assert_array_equal(run.scene.depth, scene.depth)
    np.testing.assert_array_equal(run.scene.extrinsics, scene.extrinsics)
    assert run.scene.provenance["sparsity"] == scene.provenance["sparsity"]
    dense = pipeline(photos[::2], sparsity=Sparsity("dense"))
    assert run.drift == scene_drift(scene, dense) and run.drift.pose_deg > 0
    assert run.change is None and run.seconds > 0


def test_every_layer_is_moved_by_its_own_regime(effects: list[Effect]) -> None:
    assert [(e.layer, e.regime) for e in effects] == [
        (layer, regime) for layer in range(DEPTH) for regime in (SELF, ANCHOR)
    ]
    for effect in effects:
        assert 0 < effect.change < 2 and effect.drift.pose_deg > 0
    alone, anchor = effects[::2], effects[1::2]
    assert {e.work for e in alone} == {0.25}  # the four self-pairs of 16
    assert {e.work for e in anchor} == {7 / 16}  # and three pairs with the anchor
    for a, b in zip(alone, anchor, strict=True):
        assert a.change > b.change  # a superset of the keys


@pytest.mark.parametrize("other", [0, 2, 4, 7])
def test_no_other_layer_differs_from_dense(views: EncodedViews, other: int) -> None:
    """Layers before read what they read in a dense run, and those after are dense themselves."""
    observer = Observer(views.pipeline, other)
    assert views.run(only(3, SELF), observer).change == 0.0
    assert views.run(only(other, SELF), observer).change > 0.0  # type: ignore[operator]


def test_the_change_is_that_between_two_runs(views: EncodedViews, effects: list[Effect]) -> None:
    """The same layer's output in a dense and in a sparse run, by ONNX Runtime alone."""
    layer = 3
    tokens = plain_run("encoder", {"images": views.images.batch(0, 4)}, "patch_tokens")
    name = global_attention(onnx.load(DEMO / "aggregator.onnx").graph)[layer].output[0]

    def output(maps: NDArray[np.int32], layer_map: Sequence[int]) -> NDArray[np.float64]:
        inputs = {
            "patch_tokens": tokens,
            "pair_levels": maps,
            "layer_map": np.array(layer_map, np.int64),
            "probe": np.zeros(1, np.int64),
        }
        return plain_run("aggregator", inputs, name).astype(np.float64)

    maps = np.stack([np.full((4, 4), 2, np.int32), 2 * np.eye(4, dtype=np.int32)])
    dense = output(maps, [0] * DEPTH)
    moved = output(maps, [int(i == layer) for i in range(DEPTH)]) - dense
    expected = float(np.linalg.norm(moved) / np.linalg.norm(dense))
    assert effects[2 * layer].regime == SELF
    assert effects[2 * layer].change == pytest.approx(expected, rel=1e-4)


def plain_run(stage: str, inputs: dict[str, NDArray[Any]], tensor: str) -> NDArray[Any]:
    """Run a stage of the demo bundle without our kernel, and return any tensor of its graph."""
    model = onnx.load(DEMO / f"{stage}.onnx")
    if tensor not in [output.name for output in model.graph.output]:
        value = helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None)
        model.graph.output.append(value)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run([tensor], inputs)[0])


def test_pooled_blocks_are_observed_in_their_aggregator(views: EncodedViews) -> None:
    run = views.run(only(5, Regime(pooled=True, keep_ratio=0.3)), Observer(views.pipeline, 5))
    assert run.change is not None and 0 < run.change < 2
    whole = views.run(only(5, Regime(pooled=True, keep_ratio=1.0)), Observer(views.pipeline, 5))
    assert whole.change == pytest.approx(0.0, abs=1e-5)  # blocks of another size, all kept


def test_a_plan_does_not_show_a_layer(views: EncodedViews) -> None:
    options = RunOptions(backend=BackendOptions(backend="tensorrt", plans=Path("plans")))
    plans = Pipeline(views.pipeline.bundle, options)
    plans._backend = object()  # type: ignore[assignment]  # a machine without TensorRT opens none
    stage = views.pipeline.bundle.manifest.stage(AGGREGATOR)
    with pytest.raises(CovisError, match="--backend tensorrt: runs plans") as raised:
        Observer(plans, 0).session(stage)
    assert raised.value.code == ExitCode.USER


def small_graph(levels: Sequence[str]) -> onnx.ModelProto:
    """A chain of attention ops with these level maps; "maps" stands for maps of view pairs."""
    nodes = [helper.make_node("Identity", ["pair_levels"], ["maps"])]
    for index, level in enumerate(levels):
        inputs = [f"x{index}"] * 3 + [level]
        nodes.append(helper.make_node(ATTENTION, inputs, [f"x{index + 1}"], domain=DOMAIN))
    inputs = [
        helper.make_tensor_value_info("x0", TensorProto.FLOAT, (1, 1, 4, 2)),
        helper.make_tensor_value_info("pair_levels", TensorProto.INT8, (1, 1, 2, 2)),
        helper.make_tensor_value_info("full", TensorProto.INT8, (1, 1, 1, 1)),
    ]
    last = helper.make_tensor_value_info(f"x{len(levels)}", TensorProto.FLOAT, (1, 1, 4, 2))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(
        helper.make_graph(nodes, "chain", inputs, [last]), opset_imports=opsets
    )


def test_frame_attention_is_no_global_layer(tmp_path: Path) -> None:
    """Ops with a constant map lie between those of the global layers, here two for each layer."""
    levels = ("full", "maps", "maps", "full", "maps", "maps")
    model = small_graph(levels)
    assert [n.output[0] for n in global_attention(model.graph)] == ["x2", "x3", "x5", "x6"]
    path = tmp_path / "chain.onnx"
    onnx.save(model, path)
    copies = [
        [node.output[0] for node in global_attention(observed(path, layer, 2).graph)][:4]
        + [node.input[0] for node in observed(path, layer, 2).graph.node if node.name]
        for layer in (0, 1)
    ]
    assert copies == [["x2", "x3", "x5", "x6", "x1", "x2"], ["x2", "x3", "x5", "x6", "x4", "x5"]]
    for depth in (3, 5):
        with pytest.raises(CovisError, match="has 4 attention ops for") as raised:
            observed(path, 0, depth)
        assert raised.value.code == ExitCode.USER


def observed(path: Path, layer: int, depth: int) -> onnx.ModelProto:
    return observed_graph(verified_onnx(path), layer, depth).model()


def drift(pose: float, depth: float = 0.0) -> Drift:
    return Drift(pose, pose, 0, pose, depth, depth, depth, 0, 1.0, 0)


def effect(layer: int, regime: str, work: float, found: Drift) -> Effect:
    return Effect(layer, parse_regime(regime), work, 0.5, found)


def text(found: Sequence[tuple[Regime, ...]]) -> list[str]:
    return [" ".join(map(str, regimes)) for regimes in found]


def test_budgets_admit_the_cheapest_regime_within_them() -> None:
    effects = [
        effect(0, "self", 0.1, drift(0.5)),
        effect(0, "anchors=5", 0.4, drift(0.2)),
        effect(1, "self", 0.1, drift(0.1, depth=0.009)),
        effect(1, "anchors=5", 0.4, drift(1.0)),
        effect(2, "self", 0.1, drift(3.0)),
        effect(2, "anchors=5", 1.0, drift(0.0)),  # leaves out nothing: no better than dense
    ]
    assert text(schedules(effects, 3, (1.0, 0.01))) == [
        "anchors=5 dense dense",
        "self dense dense",
        "self self dense",  # at 90 % of the bound on depth; anchors=5 would cost more there
    ]
    assert text(schedules(effects, 3, (3.0, 1.0)))[-1] == "self self self"
    assert schedules(effects, 3, (0.05, 0.01)) == []
    nothing = replace(drift(0.0), shift_deg=float("nan"))
    assert schedules([effect(0, "self", 0.1, nothing)], 1, (1.0, 1.0)) == []


def test_wide_bounds_give_the_cheapest_regime_everywhere(
    views: EncodedViews, others: EncodedViews, effects: list[Effect]
) -> None:
    outcome = propose(effects, views, others, BASE, (180.0, 100.0))
    assert outcome.best is not None and outcome.best.check is not None
    assert outcome.best.sparsity.schedule == "0-7:self"
    assert outcome.best.work == 0.25 and (outcome.views, outcome.checked) == (4, 4)


def test_narrow_bounds_give_dense(views: EncodedViews, effects: list[Effect]) -> None:
    outcome = propose(effects, views, None, BASE, (1e-6, 1e-9))
    assert outcome.best is None and outcome.trials == () and outcome.checked == 0


def test_a_proposal_is_within_the_bounds_on_both_sets_of_photos(
    pipeline: Pipeline, views: EncodedViews, others: EncodedViews, effects: list[Effect]
) -> None:
    ratios = sorted(e.drift.over(1.0, 0.1) for e in effects)
    bounds = (3 * ratios[4], 0.3 * ratios[4])  # a few layers fit, not all of them
    steps: list[tuple[int, int]] = []
    outcome = propose(effects, views, others, BASE, bounds, lambda n, all_: steps.append((n, all_)))
    assert steps[0][0] == 0 and steps[-1][0] == steps[-1][1] >= len(outcome.trials)
    best = outcome.best
    assert best is not None and best.within(*bounds) and best.check is not None
    assert 0.25 < best.work < 1.0
    for trial in outcome.trials:
        assert not trial.within(*bounds) or trial.work >= best.work
    for photos, expected in ((views, best.drift), (others, best.check)):  # by the pipeline itself
        dense = pipeline(photos.images, sparsity=Sparsity("dense"))
        again = scene_drift(pipeline(photos.images, sparsity=best.sparsity), dense)
        assert again.within(*bounds) and again == expected


def test_regimes_that_leave_out_nothing_are_not_measured() -> None:
    scene = random_scene(5)
    given = [parse_regime(t) for t in ("self", "dense", "anchors", "anchors=7", "self", "pooled")]
    found, notes = measurable(given, Sparsity(anchors=2, min_neighbours=0), scene, True)
    assert [str(regime) for regime in found] == ["self", "anchors=2", "pooled=0.25"]
    assert notes == ("anchors=7 is not measured: it computes all pairs of 5 views",)
    for bad in ([], [parse_regime("dense")], [parse_regime("anchors=5")]):
        with pytest.raises(CovisError, match="--regimes: names no regime that leaves out a pair"):
            measurable(bad, Sparsity(), scene, True)
    many = [parse_regime(f"saliency=0.{n}") for n in range(91, 99)]
    with pytest.raises(CovisError, match="--regimes: names 8 regimes; a schedule has at most 8"):
        measurable(many, Sparsity(), scene, True)


def test_a_schedule_replaces_the_options_of_the_bundle() -> None:
    low = Sparsity("saliency", tau=0.8, tau_low=0.5, low_precision=True, layers="all", cdf=0.9)
    options = with_schedule(low, [Regime(), SELF, Regime("saliency", tau=0.7)])
    assert options == Sparsity(
        "anchors", tau=0.8, schedule="0:dense, 1:self, 2:saliency=0.7", cdf=0.0
    )
    assert with_schedule(low, [Regime()] * 3) == Sparsity("dense", tau=0.8)


def test_figures_that_are_not_finite_are_none_in_json() -> None:
    nothing = replace(drift(2.0), shift_deg=float("nan"), depth_rel=float("nan"))
    row = replace(effect(3, "anchors=5", 0.5, nothing), change=float("inf")).row()
    assert row == {
        "layer": 3,
        "regime": "anchors=5",
        "work": 0.5,
        "change": None,
        "pose_deg": None,
        "rotation_deg": 2.0,
        "shift_deg": None,
        "depth_rel": None,
    }
    trial = trial_row(Trial(Sparsity("dense"), 1.0, 2.0, nothing), 4)
    assert trial == {
        "schedule": "0-3:dense",
        "work": 1.0,
        "seconds": 2.0,
        "pose_deg": None,
        "depth_rel": None,
    }
