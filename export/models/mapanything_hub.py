"""MapAnything's own `config.json`, published beside its weights, in our configuration's fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from covis.engines.errors import user_error

# DINOv2's named sizes: width, heads, blocks, gated MLPs (Oquab et al. 2023).
_VIT = {
    "small": (384, 6, 12, False),
    "base": (768, 12, 12, False),
    "large": (1024, 16, 24, False),
    "giant": (1536, 24, 40, True),
}
# What the published code takes where the file is silent, as the V1 file is.
_JOINT_DEFAULTS = {"dim": 768, "num_heads": 12}


def read_hub_config(weights: Path) -> dict[str, Any] | None:
    """Fields of MapAnythingConfig from the `config.json` beside a weights file, if it is there.

    A file of that name without MapAnything's own fields belongs to something else and is left.
    """
    path = weights.parent / "config.json"
    try:
        record = json.loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise user_error(f"not readable as JSON ({error})", where=path, hint="mend it") from error
    own = isinstance(record, dict) and {"encoder_config", "info_sharing_config"} <= record.keys()
    return from_hub_config(record, path) if own else None


def from_hub_config(record: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Fields of MapAnythingConfig from the published file.

    Raises:
        CovisError: fields that contradict each other, or a variant that is not supported; all
            named in one line.
    """
    encoder = record["encoder_config"]
    joint = record["info_sharing_config"]
    arguments = {**_JOINT_DEFAULTS, **joint.get("module_args", {})}
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
    features = record.get("pred_head_config", {}).get("feature_head", {}).get("feature_dim")
    return fields if features is None else {**fields, "dpt_features": features}


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
    faults = [f"{name} = {got!r} is not supported" for name, got, ok in wanted if got not in ok]
    return faults + [
        f"module_args.{name} is missing" for name in ("depth", "indices") if name not in arguments
    ]


def _contradictions(
    record: Mapping[str, Any], encoder: Mapping[str, Any], arguments: Mapping[str, Any], v11: bool
) -> list[str]:
    """The marks of the V1.1 layout come together or not at all."""
    marks = {
        "info_sharing_mlp_layer_str": "swiglu" in record.get("info_sharing_mlp_layer_str", "mlp"),
        "encoder_config.norm_returned_features": not encoder.get("norm_returned_features", True),
        "module_args.init_values": arguments.get("init_values") is not None,
    }
    layout = "V1.1" if v11 else "V1"
    return [
        f"{name} contradicts the {layout} layout that use_register_tokens_from_encoder = {v11} says"
        for name, mark in marks.items()
        if mark != v11
    ]
