"""MapAnything (V1.1 and V1 layouts) against the original's numbers, and its own invariants."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from covis.engines.errors import CovisError
from covis.export.models import build_model, load_model
from covis.export.models.config import from_mapping
from covis.export.models.mapanything import MapAnything
from covis.export.models.mapanything_config import MapAnythingConfig, hub_fields, read_hub_config
from covis.export.selection.block_maps import BlockMap
from covis.export.weights.keys import canonical
from tests.export.models.parity import (
    Recorder,
    assert_same,
    precisions,
    recorded_cases,
    recorded_model,
    run_stages,
)
from tests.golden_data import golden, golden_json

TINY = ["mapanything_a1", "mapanything_a2"]
V1 = {
    "v11": False,
    "enc_dim": 1024,
    "enc_heads": 16,
    "enc_depth_total": 24,
    "enc_keep": None,
    "enc_swiglu": False,
    "dim": 768,
    "heads": 12,
    "depth": 24,
    "indices": [11, 17],
}


def outputs_and_inner(model: MapAnything, images: Tensor) -> dict[str, Tensor]:
    joint = model.info_sharing
    recorder = Recorder(
        encoder=model.encoder,
        fused=model.fusion_norm_layer,
        block0=joint.self_attention_blocks[0],
        block1=joint.self_attention_blocks[1],
        final=joint.norm,  # called for the taps first, for all tokens last
        dense=model.dense_head,
        translation=model.pose_head.fc_t,
        quaternion=model.pose_head.fc_rot,
    )
    with torch.inference_mode():
        values: dict[str, Tensor] = model(images)
    recorder.close()
    seen, (batch, views) = recorder.seen, images.shape[:2]
    grid = images.shape[-2] // 14, images.shape[-1] // 14

    def view_major(x: Tensor) -> Tensor:
        return torch.unflatten(x, 0, (batch, views)).transpose(0, 1).flatten(0, 1)

    tokens = seen["encoder"]
    as_map = torch.unflatten(tokens[:, 1:].transpose(1, 2), 2, grid)
    values["inter.encoder_features_BCHW"] = view_major(as_map)
    if model.config.v11:
        values["inter.encoder_registers"] = view_major(tokens[:, :1].transpose(1, 2))
    values["inter.fused_BHWC"] = view_major(torch.unflatten(seen["fused"].flatten(0, 1), 1, grid))
    values["inter.block0_global"] = seen["block0"]
    values["inter.block1_frame"] = seen["block1"]
    values["inter.final_tokens_normed"] = seen["final"]
    values["inter.dense_raw6"] = view_major(seen["dense"])
    pose = torch.cat([seen["translation"], seen["quaternion"]], dim=-1)
    values["inter.pose_raw7"] = view_major(pose)
    return values


@precisions()
@pytest.mark.parametrize("config", TINY)
def test_outputs_and_intermediates_are_the_originals(config: str, exact: bool) -> None:
    model = recorded_model("mapanything", config)
    assert isinstance(model, MapAnything)
    if exact:
        model.double()
    for case, tensors in recorded_cases(config):
        images = tensors["images"].double() if exact else tensors["images"]
        values = outputs_and_inner(model, images)
        assert_same(values, case, tensors, exact=exact)


@pytest.mark.parametrize(("keys", "config"), [("v11", None), ("v1", V1)])
def test_official_keys_and_shapes(keys: str, config: dict[str, Any] | None) -> None:
    official = json.loads(golden(f"keys_mapanything_{keys}.json").read_text())["keys"]
    with torch.device("meta"):
        state = build_model("mapanything", config).state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == {
        key: shape
        for key, shape in official.items()
        if not key.startswith(MapAnything.ignored_keys)
    }


@pytest.mark.parametrize("config", TINY)
def test_every_published_alias_is_known(config: str) -> None:
    record = golden_json(f"{config}.json")
    with safe_open(golden(record["weights"]), framework="pt") as file:
        aliases = file.metadata()
    assert len(aliases) == 76
    assert {alias: next(iter(canonical([alias], MapAnything.aliases))) for alias in aliases} == (
        aliases
    )


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("config", TINY)
def test_the_stages_one_after_another_are_the_model(config: str, views: int) -> None:
    model = recorded_model("mapanything", config)
    images = torch.rand(views, 3, 28, 42, generator=torch.Generator().manual_seed(0))
    staged = run_stages(model, images)
    with torch.inference_mode():
        whole = {name: value[0] for name, value in model(images[None]).items()}
    for name in whole.keys() & staged.keys():
        expected = whole[name] if name != "metric_scaling_factor" else whole[name][0]
        torch.testing.assert_close(staged[name], expected, rtol=1e-4, atol=1e-4)
    assert len(whole.keys() & staged.keys()) == 7


def test_block_maps_count_patches_between_view_and_scale_tokens() -> None:
    """Keeping nothing but a view's own patches cuts every other path between patches of views."""
    model = recorded_model("mapanything", "mapanything_a1").double()
    layout = model.layout(28, 42)
    assert (layout.frame_tokens, layout.special_first, layout.special_last) == (7, 0, 1)
    assert layout.trailing_tokens == 1
    asked: list[tuple[int, int]] = []
    level = (2 * torch.eye(3, dtype=torch.int8))[None, None]

    def selection(layer: int, q: Tensor, k: Tensor) -> BlockMap:
        asked.append((layer, q.shape[2]))
        return BlockMap(level, 6, 6)

    images = torch.rand(1, 3, 3, 28, 42, dtype=torch.float64)
    with torch.inference_mode():
        sparse, dense = model(images, selection), model(images)
    assert asked == [(0, 3 * 7 + 1), (1, 3 * 7 + 1)]
    assert (sparse["pts3d"] - dense["pts3d"]).abs().max() > 1e-3


@pytest.mark.parametrize("config", TINY)
def test_patch_order_changes_nothing_but_what_selections_see(config: str) -> None:
    model = recorded_model("mapanything", config).double()
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 42, 56, generator=generator, dtype=torch.float64)
    order = torch.randperm(12, generator=generator)
    with torch.inference_mode():
        encoded = tuple(x[None] for x in model.encode(images))
        raster = model.aggregate(encoded, 42, 56)
        shuffled = model.aggregate(encoded, 42, 56, patch_order=order)
    for a, b in zip(raster, shuffled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def hub_record(**changes: object) -> dict[str, Any]:
    record: dict[str, Any] = {
        "name": "mapanything",
        "encoder_config": {
            "size": "giant",
            "with_registers": False,
            "norm_returned_features": False,
            "keep_first_n_layers": 24,
        },
        "info_sharing_config": {
            "model_type": "alternating_attention",
            "custom_positional_encoding": None,
            "module_args": {
                "indices": [7, 11],
                "depth": 16,
                "dim": 1536,
                "num_heads": 24,
                "mlp_ratio": 4,
                "qk_norm": False,
                "init_values": 1e-5,
            },
        },
        "pred_head_config": {"feature_head": {"feature_dim": 256}},
        "use_register_tokens_from_encoder": True,
        "info_sharing_mlp_layer_str": "swiglufused",
    }
    return record | changes


def write_hub(folder: Path, record: object) -> Path:
    (folder / "config.json").write_text(json.dumps(record))
    return folder / "model.safetensors"


def test_sizes_are_read_from_the_published_config(tmp_path: Path) -> None:
    fields = read_hub_config(write_hub(tmp_path, hub_record()))
    assert from_mapping(MapAnythingConfig, fields) == MapAnythingConfig()
    v1 = {
        "encoder_config": {"size": "large", "with_registers": False},
        "info_sharing_config": {
            "model_type": "alternating_attention",
            "module_args": {"indices": [11, 17], "depth": 24},
        },
    }
    fields = read_hub_config(write_hub(tmp_path, v1))
    assert from_mapping(MapAnythingConfig, fields) == from_mapping(MapAnythingConfig, V1)


def test_other_config_files_are_left_alone(tmp_path: Path) -> None:
    assert read_hub_config(tmp_path / "model.safetensors") is None
    assert read_hub_config(write_hub(tmp_path, {"architectures": ["Other"]})) is None
    assert read_hub_config(write_hub(tmp_path, [1, 2])) is None
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CovisError, match=r"config\.json: is not JSON"):
        read_hub_config(tmp_path / "model.safetensors")


def test_contradictions_and_unsupported_variants_are_all_named(tmp_path: Path) -> None:
    record = hub_record(use_register_tokens_from_encoder=False)
    record["info_sharing_config"]["model_type"] = "cross_attention"
    with pytest.raises(CovisError) as caught:
        read_hub_config(write_hub(tmp_path, record))
    for name in (
        "model_type",
        "info_sharing_mlp_layer_str",
        "norm_returned_features",
        "init_values",
        "use_register_tokens_from_encoder",
    ):
        assert name in str(caught.value)


BAD: tuple[Any, ...] = (None, True, -1, 3, 1e300, 10**12, float("nan"), "x", [], [[]], {}, {"a": 1})


def places(record: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every field of a record at any depth, as the object that contains it and its name."""
    for name, value in record.items():
        yield record, name
        if isinstance(value, dict):
            yield from places(value)


def test_a_published_config_of_any_other_form_is_refused_in_one_line(tmp_path: Path) -> None:
    """Or taken: no value in any field raises another error."""
    count = len(list(places(hub_record())))
    refused = 0
    for place in range(count):
        for value in BAD:
            record = copy.deepcopy(hub_record())
            owner, name = list(places(record))[place]
            owner[name] = value
            try:
                from_mapping(MapAnythingConfig, read_hub_config(write_hub(tmp_path, record)))
            except CovisError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 1000
    assert refused > count * len(BAD) / 2


def test_the_published_config_is_taken_where_it_is_named(tmp_path: Path) -> None:
    """Fine-tuned weights have none beside them; --config names that of the original."""
    assert hub_fields(hub_record()) == read_hub_config(write_hub(tmp_path, hub_record()))
    assert hub_fields({"dim": 768}) == {"dim": 768}
    with torch.device("meta"):
        weights = build_model("mapanything").state_dict()
    del weights["dense_head.1.conv1.bias"]
    with pytest.raises(CovisError, match=r"configuration: 1 missing \(dense_head.1.conv1.bias\);"):
        load_model("mapanything", hub_record(), weights)
