"""Sizes of MapAnything, and the `config.json` that is published beside its weights."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from covis.engines.errors import user_error
from covis.engines.limits import MODEL_BLOCKS, MODEL_SIZE
from covis.engines.system.json_file import read_json
from covis.export.models.config import divides, refuse, within
from covis.export.models.dinov2 import PATCH

# DINOv2's named sizes: width, heads, blocks, gated MLPs (Oquab et al. 2023).
_VIT = {
    "small": (384, 6, 12, False),
    "base": (768, 12, 12, False),
    "large": (1024, 16, 24, False),
    "giant": (1536, 24, 40, True),
}
# Defaults of the published code for fields that the file lacks, as the V1 file does.
_JOINT_DEFAULTS = {"dim": 768, "num_heads": 12}
# Fields by which the published file is recognised.
_OWN_FIELDS = {"encoder_config", "info_sharing_config"}


@dataclass(frozen=True)
class MapAnythingConfig:
    """Sizes of a MapAnything; the defaults are facebook/map-anything-apache (V1.1).

    Attributes:
        v11: Layout of V1.1: the encoder's class token joins its view's tokens, the encoder has no
            final norm, and the joint blocks have SwiGLU and LayerScale. V1 has none of these.
        enc_dim: Width of the encoder.
        enc_heads: Attention heads of the encoder.
        enc_depth_total: Blocks of the published encoder.
        enc_keep: Number of first encoder blocks in use; None: all.
        enc_swiglu: True if the encoder has gated MLPs.
        img_size: Side in pixels of the images whose patch grid the position embedding is stored
            for.
        dim: Width C of the joint blocks.
        heads: Attention heads of the joint blocks.
        depth: Number of global and frame blocks together, alternating, global first.
        indices: The two joint blocks tapped for the dense head, besides the encoder and the end.
        dpt_features: Width of the dense head's fusion blocks.
        dpt_layer_dims: Widths of the dense head's four levels, fine to coarse.
        pose_hidden: Width of the pose head.
        scale_hidden: Width of the scale head.
    """

    v11: bool = True
    enc_dim: int = 1536
    enc_heads: int = 24
    enc_depth_total: int = 40
    enc_keep: int | None = 24
    enc_swiglu: bool = True
    img_size: int = 518
    dim: int = 1536
    heads: int = 24
    depth: int = 16
    indices: tuple[int, int] = (7, 11)
    dpt_features: int = 256
    dpt_layer_dims: tuple[int, int, int, int] = (96, 192, 384, 768)
    pose_hidden: int = 784
    scale_hidden: int = 196

    NOTES: ClassVar[tuple[str, ...]] = ("geo_*",)

    def __post_init__(self) -> None:
        faults = within(self, MODEL_BLOCKS, "enc_depth_total", "depth")
        faults += within(self, MODEL_SIZE, "enc_dim", "img_size", "dim", "dpt_features")
        faults += within(self, MODEL_SIZE, "dpt_layer_dims", "pose_hidden", "scale_hidden")
        faults += divides(self, "enc_dim", "enc_heads") + divides(self, "dim", "heads")
        if self.enc_keep is not None and not 0 < self.enc_keep <= self.enc_depth_total:
            faults.append(f"enc_keep = {self.enc_keep} of enc_depth_total = {self.enc_depth_total}")
        if not 0 <= self.indices[0] < self.indices[1] < self.depth:
            faults.append(f"indices = {self.indices} with depth = {self.depth}")
        if self.img_size % PATCH:
            faults.append(f"img_size = {self.img_size} is no multiple of {PATCH}")
        if self.dpt_features % 2:
            faults.append(f"dpt_features = {self.dpt_features} is odd")
        refuse(MapAnythingConfig, faults)

    @property
    def encoder_depth(self) -> int:
        """Number of encoder blocks in use."""
        return self.enc_depth_total if self.enc_keep is None else self.enc_keep


def read_hub_config(weights: Path) -> Mapping[str, Any] | None:
    """Read fields of MapAnythingConfig from the `config.json` beside a weights file, if it exists.

    A file of that name without MapAnything's own fields belongs to something else and is ignored.
    """
    path = weights.parent / "config.json"
    record = read_json(path, "mend it, or pass the sizes with --config") if path.exists() else {}
    own = isinstance(record, dict) and record.keys() >= _OWN_FIELDS
    return from_hub_config(record, path) if own else None


def hub_fields(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert a published `config.json` to fields of MapAnythingConfig; return fields as they are.

    Raises:
        CovisError: see `from_hub_config`.
    """
    return from_hub_config(config, "--config") if config.keys() >= _OWN_FIELDS else config


def from_hub_config(record: Mapping[str, Any], where: Path | str) -> dict[str, Any]:
    """Convert the published file to fields of MapAnythingConfig.

    Raises:
        CovisError: fields that contradict each other, or an unsupported variant; all in one line.
    """
    encoder = _object(record, "encoder_config", where)
    joint = _object(record, "info_sharing_config", where)
    arguments = {**_JOINT_DEFAULTS, **_object(joint, "module_args", where)}
    prediction = _object(record, "pred_head_config", where)
    v11 = bool(record.get("use_register_tokens_from_encoder", False))
    faults = _unsupported(encoder, joint, arguments) + _contradictions(
        record, encoder, arguments, v11
    )
    if faults:
        raise user_error(
            "; ".join(faults), where=where, hint="pass the sizes with --config instead"
        )
    width, heads, blocks, gated = _VIT[encoder["size"]]
    fields = {
        "v11": v11,
        "enc_dim": width,
        "enc_heads": heads,
        "enc_depth_total": blocks,
        "enc_keep": encoder.get("keep_first_n_layers"),
        "enc_swiglu": gated,
        "dim": arguments["dim"],
        "heads": arguments["num_heads"],
        "depth": arguments["depth"],
        "indices": arguments["indices"],
    }
    features = _object(prediction, "feature_head", where).get("feature_dim")
    return fields if features is None else {**fields, "dpt_features": features}


def _object(record: Mapping[str, Any], name: str, where: Path | str) -> dict[str, Any]:
    value = record.get(name, {})
    if not isinstance(value, dict):
        raise user_error(
            f"{name} is no JSON object", where=where, hint="pass the sizes with --config instead"
        )
    return value


def _unsupported(
    encoder: Mapping[str, Any], joint: Mapping[str, Any], arguments: Mapping[str, Any]
) -> list[str]:
    wanted: list[tuple[str, object, tuple[object, ...]]] = [
        ("encoder_config.size", encoder.get("size"), tuple(_VIT)),
        ("encoder_config.with_registers", encoder.get("with_registers", False), (False,)),
        ("info_sharing_config.model_type", joint.get("model_type"), ("alternating_attention",)),
        (
            "info_sharing_config.custom_positional_encoding",
            joint.get("custom_positional_encoding"),
            (None,),
        ),
        ("module_args.mlp_ratio", arguments.get("mlp_ratio", 4), (4,)),
        ("module_args.qk_norm", arguments.get("qk_norm", False), (False,)),
        (
            "module_args.distinguish_ref_and_non_ref_views",
            arguments.get("distinguish_ref_and_non_ref_views", True),
            (True,),
        ),
    ]
    faults = [
        f"{name} = {reprlib.repr(got)} is not supported"
        for name, got, ok in wanted
        if got not in ok
    ]
    return faults + [
        f"module_args.{name} is missing" for name in ("depth", "indices") if name not in arguments
    ]


def _contradictions(
    record: Mapping[str, Any], encoder: Mapping[str, Any], arguments: Mapping[str, Any], v11: bool
) -> list[str]:
    """Return a fault unless the marks of the V1.1 layout occur all together or not at all."""
    marks = {
        "info_sharing_mlp_layer_str": "swiglu" in str(record.get("info_sharing_mlp_layer_str")),
        "encoder_config.norm_returned_features": not encoder.get("norm_returned_features", True),
        "module_args.init_values": arguments.get("init_values") is not None,
    }
    layout = "V1.1" if v11 else "V1"
    return [
        f"{name} contradicts the {layout} layout that use_register_tokens_from_encoder = {v11} says"
        for name, mark in marks.items()
        if mark != v11
    ]
