"""Configurations: the official sizes, the recorded ones, and mistakes reported all at once."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from covis.engines.errors import CovisError
from covis.export.models import MODELS, build_model, model_info
from covis.export.models.config import from_mapping
from covis.export.models.mapanything_config import MapAnythingConfig
from covis.export.models.pi3 import Pi3Config
from covis.export.models.vggt import VggtConfig
from tests.golden_data import golden_json


def refusal(kind: type, fields: dict[str, Any]) -> str:
    with pytest.raises(CovisError) as caught:
        from_mapping(kind, fields, kind.NOTES)  # type: ignore[attr-defined]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_recorded_configurations_are_taken_as_they_stand() -> None:
    config = from_mapping(VggtConfig, golden_json("vggt_a1.json")["config"], VggtConfig.NOTES)
    assert config.dpt_layers == (0, 1, 2, 3) and config.mlp_ratio == 1.5
    assert isinstance(config.dino_mlp_ratio, float)
    v1 = golden_json("mapanything_a2.json")["config"]
    joint = from_mapping(MapAnythingConfig, v1, MapAnythingConfig.NOTES)
    assert joint.enc_keep is None and joint.encoder_depth == 2


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        VggtConfig().depth = 3  # type: ignore[misc]


@pytest.mark.parametrize("kind", [VggtConfig, Pi3Config, MapAnythingConfig])
def test_unknown_fields_and_wrong_types_are_all_named(kind: type) -> None:
    message = refusal(kind, {"dpeth": 3, "img_size": "518", "colour": True})
    assert kind.__name__ in message
    assert "unknown field 'dpeth'" in message and "unknown field 'colour'" in message
    assert "img_size = '518' is not of type int" in message


@pytest.mark.parametrize("value", [[1, 2, 3], [1, 2, 3, "4"], 4, [1, 2, 3, 4.5], [1, 2, 3, True]])
def test_tuples_have_their_length_and_type(value: object) -> None:
    assert "dpt_layers" in refusal(VggtConfig, {"dpt_layers": value})


@pytest.mark.parametrize(
    ("kind", "fields", "named"),
    [
        (VggtConfig, {"depth": 4}, "dpt_layers = (4, 11, 17, 23) with depth = 4"),
        (VggtConfig, {"dpt_layers": [4, 4, 17, 23]}, "are not four different layers"),
        (VggtConfig, {"num_heads": 7}, "embed_dim = 1024 does not split into num_heads = 7"),
        (VggtConfig, {"embed_dim": 24, "num_heads": 4}, "of a multiple of 4 features"),
        (VggtConfig, {"img_size": 500}, "img_size = 500 is no multiple of 14"),
        (VggtConfig, {"num_heads": 0, "depth": -1}, "depth = -1 must be above 0"),
        (VggtConfig, {"dpt_out_channels": [6, 8, 8, 8]}, "dpt_out_channels must be multiples"),
        (Pi3Config, {"dec_depth": 3}, "dec_depth = 3 is odd"),
        (Pi3Config, {"head_heads": 5}, "head_dim_model = 1024 does not split"),
        (MapAnythingConfig, {"enc_keep": 41}, "enc_keep = 41 of enc_depth_total = 40"),
        (MapAnythingConfig, {"indices": [11, 7]}, "indices = (11, 7) with depth = 16"),
        (MapAnythingConfig, {"depth": 8}, "indices = (7, 11) with depth = 8"),
    ],
)
def test_contradictions_are_named(kind: type, fields: dict[str, Any], named: str) -> None:
    assert named in refusal(kind, fields)


def test_several_contradictions_come_in_one_error() -> None:
    message = refusal(VggtConfig, {"depth": 4, "num_heads": 7, "img_size": 500})
    assert "dpt_layers" in message and "num_heads" in message and "img_size" in message


def test_unknown_models_are_refused_with_the_list() -> None:
    with pytest.raises(CovisError, match="dust3r: no such model; choose one of vggt, pi3"):
        model_info("dust3r")


@pytest.mark.parametrize(
    ("name", "reference", "metric"),
    [("vggt", True, False), ("pi3", False, False), ("mapanything", True, True)],
)
def test_what_the_models_say_of_themselves(name: str, reference: bool, metric: bool) -> None:
    assert name in MODELS
    config = golden_json(f"{name}_a1.json")["config"]
    model = build_model(name, config)
    assert model.name == name and MODELS[name].repository in model.licence
    assert model.has_reference == reference and model.metric == metric
