"""Names that training gives to weights, and parts of a model that a checkpoint lacks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from covis.engines.errors import CovisError
from covis.export.models import load_model
from covis.export.models.mapanything import MapAnything
from covis.export.weights.keys import canonical
from tests.golden_data import golden, golden_json
from tests.tiny_vggt import CONFIG, random_weights

ALL = {
    "DistributedDataParallel": "module.{}",
    "compiled": "_orig_mod.{}",
    "Lightning": "model.{}",
    "compiled in DistributedDataParallel": "module._orig_mod.{}",
    "FSDP": "_fsdp_wrapped_module.{}",
    "FSDP in Lightning": "model._fsdp_wrapped_module.{}",
    "twice": "module.module.{}",
    "model of a wrapper's model": "model.model.module.{}",
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return load_file(random_weights(tmp_path_factory.mktemp("weights")))


@pytest.mark.parametrize("kind", ALL)
def test_prefixes_of_all_keys_are_left_out(weights: dict[str, Tensor], kind: str) -> None:
    wrapped = {ALL[kind].format(key): value for key, value in weights.items()}
    state = load_model("vggt", CONFIG, wrapped).state_dict()
    assert all(torch.equal(state[key], weights[key]) for key in state)


def test_wrappers_of_single_layers_are_left_out(weights: dict[str, Tensor]) -> None:
    wrapped = {
        key.replace(".attn.", "._orig_mod.attn.").replace(
            "blocks.0.", "blocks.0._checkpoint_wrapped_module."
        ): value
        for key, value in weights.items()
    }
    assert wrapped.keys() != weights.keys()
    state = load_model("vggt", CONFIG, wrapped).state_dict()
    assert all(torch.equal(state[key], weights[key]) for key in state)


def test_a_prefix_of_some_keys_is_no_wrapper(weights: dict[str, Tensor]) -> None:
    mixed = {f"module.{key}": value for key, value in weights.items()}
    mixed["epoch"] = torch.zeros(1)
    with pytest.raises(CovisError, match=r"unknown .*module\.aggregator.camera_token"):
        load_model("vggt", CONFIG, mixed)


def test_two_keys_that_differ_by_wrappers_alone_are_refused(weights: dict[str, Tensor]) -> None:
    key = "aggregator.camera_token"
    twice = {**weights, f"_orig_mod.{key}": weights[key] + 1}
    with pytest.raises(CovisError, match=f"{key} and _orig_mod.{key} are the same weight"):
        load_model("vggt", CONFIG, twice)


def test_official_names_stay_as_they_are() -> None:
    for model in ("vggt", "pi3", "mapanything_v1", "mapanything_v11"):
        names = [key for key in golden_json(f"keys_{model}.json")["keys"] if "." in key]
        aliases = MapAnything.aliases if model.startswith("mapanything") else {}
        assert canonical(names, {}) == {name: name for name in names}
        wrapped = canonical([f"module.{name}" for name in names], aliases)
        assert wrapped.keys() == canonical(names, aliases).keys()


@pytest.mark.parametrize("head", ["depth_head", "camera_head"])
def test_a_checkpoint_without_a_part_that_a_scene_needs(
    weights: dict[str, Tensor], head: str
) -> None:
    left = {key: value for key, value in weights.items() if not key.startswith(head)}
    count = len(weights) - len(left)
    with pytest.raises(CovisError) as caught:
        load_model("vggt", CONFIG, left)
    message = str(caught.value)
    assert f"{count} missing (all of {head})" in message
    assert message.endswith(f"a bundle needs {head}: pass weights that contain it")


def test_a_point_head_with_gaps_is_an_error(weights: dict[str, Tensor]) -> None:
    left = {key: value for key, value in weights.items() if key != "point_head.norm.bias"}
    with pytest.raises(CovisError, match=r"1 missing \(point_head.norm.bias\)"):
        load_model("vggt", CONFIG, left)


def test_a_point_head_can_be_left_out(weights: dict[str, Tensor]) -> None:
    left = {key: value for key, value in weights.items() if not key.startswith("point_head.")}
    by_weights = load_model("vggt", CONFIG, left)
    by_configuration = load_model("vggt", {**CONFIG, "point_head": False}, weights)
    images = torch.rand(1, 2, 3, 56, 84)
    with torch.inference_mode():
        whole = load_model("vggt", CONFIG, weights)(images)
        for model in (by_weights, by_configuration):
            assert not model.config.point_head and model.state_dict().keys() == left.keys()
            outputs = model(images)
            assert whole.keys() - outputs.keys() == {"world_points", "world_points_conf"}
            assert all(torch.equal(value, whole[name]) for name, value in outputs.items())
    with pytest.raises(CovisError, match=r"missing \(all of point_head\)"):
        load_model("vggt", {**CONFIG, "point_head": True}, left)


def test_mapanything_of_other_sizes_names_the_flag_for_its_configuration(tmp_path: Path) -> None:
    """Upstream's training saves no config.json beside its weights."""
    record = golden_json("mapanything_a1.json")
    save_file(load_file(golden(record["weights"])), tmp_path / "fine-tuned.safetensors")
    with pytest.raises(CovisError) as caught:
        load_model("mapanything", None, tmp_path / "fine-tuned.safetensors")
    assert str(caught.value).endswith(
        "pass the configuration that the weights were trained with (--config FILE.json): for "
        "MapAnything the config.json of the weights that training started from"
    )
