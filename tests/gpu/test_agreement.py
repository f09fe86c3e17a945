"""What the check of engines against ONNX Runtime refuses and lets pass, shown on the CPU.

Both sides run in ONNX Runtime; the candidate is wrong on purpose.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from covis.engines.options import RunOptions, Sparsity
from covis.engines.system.ort_settings import import_onnxruntime
from covis.evaluation.compare.stages import Side
from covis.runtime.photos.images import Images
from covis.runtime.pipeline import Pipeline, load
from tests.gpu.engine_checks import STRIPPED
from tests.gpu.engine_checks import agreement as agreement_module
from tests.gpu.engine_checks.agreement import (
    AGGREGATOR_REL_L2,
    DEPTH_REL,
    GPU_PROVIDERS,
    POSE_DEG,
    SETTINGS,
    agreement,
    check_onnxruntime,
    check_stripped,
    clear_tau,
    verdict,
)
from tests.gpu.engine_checks.place import CHUNK, VIEWS, Place, pictures
from tests.gpu.tiny_bundles import export_tiny
from tests.gpu.units import AbsentError

DENSE = Sparsity(selector="dense")
ONLY_SELF = Sparsity(selector="saliency", tau=1.0, layers="all")  # and the reference's pairs
LAST = "3"


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return load(export_tiny(tmp_path_factory.mktemp("half"), "half"), RunOptions(CHUNK))


@pytest.fixture
def wide(tiny_bundle: Path) -> Pipeline:
    return load(tiny_bundle, RunOptions(CHUNK))


@pytest.fixture
def images(tiny_bundle: Path) -> Images:
    return pictures(tiny_bundle)


def test_float16_agrees_with_float32(half: Pipeline, wide: Pipeline, images: Images) -> None:
    """Two roundings of one model are further apart than two engines of one rounding."""
    found = agreement(wide, half, images)
    assert list(found) == list(SETTINGS)
    for numbers in found.values():
        assert numbers["scene"]["pose_deg"] < 0.5 * POSE_DEG
        assert numbers["scene"]["depth_rel"] < 0.5 * DEPTH_REL
        assert max(numbers["aggregator_rel_l2"].values()) < 0.3 * AGGREGATOR_REL_L2


def test_only_self_and_reference_pairs_are_refused(wide: Pipeline, images: Images) -> None:
    found = verdict(Side(wide, DENSE), Side(wide, ONLY_SELF), images)
    # By the scene and by the tokens, not only by the map.
    assert found.scene.drift.over(POSE_DEG, DEPTH_REL) > 10
    assert max(found.aggregator.values()) > 10 * AGGREGATOR_REL_L2
    assert found.map_apart == 4 * 2 * (VIEWS - 1) * (VIEWS - 2)  # of level 2 in four layers
    with pytest.raises(AssertionError, match=r"the scene is .* its tolerance apart"):
        found.demand()


@pytest.mark.parametrize("layer", ["0", "1", "2", LAST])
def test_one_wrong_layer_is_refused(wide: Pipeline, images: Images, layer: str) -> None:
    """Of the last layer the scene hardly tells; the aggregator's own output does."""
    found = verdict(Side(wide, DENSE), Side(wide, replace(ONLY_SELF, layers=layer)), images)
    wrong = [name for name, error in found.aggregator.items() if error > AGGREGATOR_REL_L2]
    assert f"tap{layer}_global" in wrong and f"tap{layer}_frame" not in wrong
    assert found.aggregator[f"tap{layer}_global"] > 5 * AGGREGATOR_REL_L2
    within = found.scene.drift.over(POSE_DEG, DEPTH_REL) <= 1.0
    assert within == (layer == LAST)


def test_a_layer_too_few_is_refused(wide: Pipeline, images: Images) -> None:
    """One of the layers that should leave pairs out computes them all."""
    sparse = Sparsity(selector="saliency", tau=clear_tau(wide, images), layers="all")
    found = verdict(Side(wide, sparse), Side(wide, replace(sparse, layers="0-2")), images)
    assert found.map_apart > 0
    assert any("tap3_global" in fault for fault in found.faults)


def test_tau_is_clear_of_every_pair(wide: Pipeline, images: Images) -> None:
    tau = clear_tau(wide, images)
    values = wide.run_stages(images, DENSE, lambda stage, done, total: None)
    assert np.abs(values["similarity"] - tau).min() > 1e-3
    kept = (values["similarity"] >= tau).mean()
    assert 0.2 < kept < 0.8


def test_values_that_are_not_finite_are_refused(wide: Pipeline, images: Images) -> None:
    found = verdict(Side(wide, DENSE), Side(wide, DENSE), images)
    assert not found.faults
    lost = replace(found, aggregator={**found.aggregator, "tap1_frame": float("nan")})
    assert lost.faults == ("tap1_frame of the aggregator is nan apart",)


def test_a_runtime_without_gpu_providers_is_absent(tmp_path: Path) -> None:
    """Not passed: nothing was compared."""
    if set(import_onnxruntime().get_available_providers()) & GPU_PROVIDERS:
        pytest.skip("this ONNX Runtime has a GPU provider")
    with pytest.raises(AbsentError, match="onnxruntime-gpu is not installed"):
        check_onnxruntime(Place(tmp_path, None))


def test_stripped_plans_take_the_place_of_whole_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is loaded then: the stripped plans of two stages beside the whole ones of the rest."""
    place = Place(tmp_path, None)
    place.plans.mkdir(parents=True)
    place.stripped.mkdir()
    for stage in (*STRIPPED, "depth"):
        for suffix in (".plan", ".plan.json", ".plan.layers"):
            (place.plans / f"{stage}-00{suffix}").write_bytes(b"whole")
    seen: dict[str, bytes] = {}

    def fake_load(bundle: Path, options: RunOptions) -> None:
        folder = options.backend.plans
        for path in folder.iterdir() if folder else ():
            seen[path.name] = path.read_bytes()

    class Fine:
        def demand(self) -> dict[str, str]:
            return {"scene": "same"}

    monkeypatch.setattr(agreement_module, "load", fake_load)
    monkeypatch.setattr(agreement_module, "pictures", lambda bundle: None)
    monkeypatch.setattr(agreement_module, "verdict", lambda *sides: Fine())
    with pytest.raises(AssertionError, match="no stripped plan of"):
        check_stripped(place)
    for stage in STRIPPED:
        (place.stripped / f"{stage}-11.plan").write_bytes(b"x")
        (place.stripped / f"{stage}-11.plan.json").write_bytes(b"x")
    found = check_stripped(place)
    assert found["bytes"]["encoder"] == {"whole": 5, "stripped": 1}
    assert found["scene"] == "same"
    plans = {name: data for name, data in seen.items() if name.endswith(".plan")}
    assert plans == {"aggregator-11.plan": b"x", "encoder-11.plan": b"x", "depth-00.plan": b"whole"}
    (place.stripped / "encoder-11.plan").write_bytes(b"larger than the whole")
    with pytest.raises(AssertionError, match="larger"):
        check_stripped(place)
