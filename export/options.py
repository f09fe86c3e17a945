"""Options of `covis export`; importable without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from covis.engines.errors import user_error
from covis.engines.options import Sparsity
from covis.engines.system.json_file import read_json

MAX_VIEWS = 1000
_MOST_VIEWS = 1_000_000

ModelName = Literal["vggt", "pi3", "mapanything"]
StoredDtype = Literal["float32", "float16", "bfloat16"]
Precision = Literal["fp32", "fp16", "bf16", "fp8"]


@dataclass(frozen=True)
class ExportOptions:
    """Turn a checkpoint into a bundle of ONNX graphs.

    Attributes:
        model: the architecture.
        out: the bundle's folder, which must not exist yet.
        weights: a safetensors file or a Hugging Face id; the official weights where not given.
        config: JSON file with the model's configuration; the official one where not given.
        height: image height in pixels, a multiple of 14.
        width: image width in pixels, a multiple of 14.
        resize: VGGT: how photos are brought to that size, `crop` or `pad` (white border).
        dtype: how the weights are stored; float32 takes the file as it is. Computing is in float32:
            only `--precision fp32` leaves a choice here, the others store what they compute in.
        precision: in what type linear layers, convolutions and attention compute. The residual
            stream, LayerNorm and softmax statistics stay in float32. `fp8` is fp16 with the linear
            layers in FP8 (e4m3), and needs `--calibration`.
        calibration: `--precision fp8`: folder of photos of the kind the bundle is meant for, which
            set the scales.
        fp8_attention: `--precision fp8`: also permit FP8 to the attention kernels.
        max_views: MLPs, projections and pooled block maps are cut into exact parts where a tensor
            would pass TensorRT's limit of 2^31 elements at this number of views.
        keep_fp32: what stays in float32 all the same: `heads`, stages, or `stage/layer` with a
            layer's name in the checkpoint, as a list with commas; `none`.
        pooling: what saliency compares: one descriptor a view, or best matches of its tokens.
        move_weights: move the weights file into the bundle instead of copying it.
        verify: run every graph against torch before the bundle is finished.
        force: replace an existing bundle.
        sparsity: the bundle's own selector options; each run can change them.
    """

    model: tyro.conf.Positional[ModelName]
    out: Path
    weights: str | None = None
    config: Path | None = None
    height: int = 392
    width: int = 518
    resize: Literal["crop", "pad"] = "crop"
    dtype: StoredDtype = "float32"
    precision: Precision = "fp32"
    keep_fp32: str = "heads"
    calibration: Path | None = None
    fp8_attention: bool = False
    max_views: int = MAX_VIEWS
    pooling: Literal["descriptor", "best-match"] = "descriptor"
    move_weights: bool = False
    verify: bool = True
    force: bool = False
    sparsity: Annotated[Sparsity, tyro.conf.arg(name="")] = field(default_factory=Sparsity)

    def __post_init__(self) -> None:
        if self.precision != "fp32" and self.dtype != "float32":
            raise user_error(
                f"--dtype {self.dtype} stores the weights for computing in float32, and "
                f"--precision {self.precision} does not compute in float32",
                where="--dtype",
                hint=f"drop --dtype: --precision {self.precision} stores what it computes in",
            )
        if self.precision == "fp32" and self.keep_fp32 not in ("heads", ""):
            raise user_error(
                "there is nothing to keep: the whole bundle is in float32",
                where="--keep-fp32",
                hint="give --precision fp16, bf16 or fp8 with it",
            )
        if self.precision == "fp8" and self.calibration is None:
            raise user_error(
                "FP8 needs photos to set its scales by",
                where="--precision",
                hint="give --calibration FOLDER, some photos of the kind the bundle is meant for",
            )
        for option in ("calibration", "fp8_attention"):
            if self.precision != "fp8" and getattr(self, option):
                raise user_error(
                    f"has no meaning with --precision {self.precision}",
                    where=f"--{option.replace('_', '-')}",
                    hint="give --precision fp8 with it, or leave it out",
                )
        if not 1 <= self.max_views <= _MOST_VIEWS:
            raise user_error(
                f"{self.max_views} is not in [1, {_MOST_VIEWS:,}]",
                where="--max-views",
                hint="give a number of views",
            )


def read_config(path: Path | None) -> dict[str, Any] | None:
    """The configuration in a JSON file: the object itself, or its member `config`.

    Raises:
        CovisError: the file is missing or no JSON object.
    """
    if path is None:
        return None
    record = read_json(path, "see docs/reference/models.md for the fields")
    config = record.get("config", record) if isinstance(record, dict) else None
    if not isinstance(config, dict):
        raise user_error(
            "holds no JSON object", where=path, hint="see docs/reference/models.md for the fields"
        )
    return config
