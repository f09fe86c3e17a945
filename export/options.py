"""Options of `covis export`; importable without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from covis.engines.errors import user_error
from covis.engines.limits import VIEWS
from covis.engines.options import Sparsity
from covis.engines.system.json_file import read_json

MAX_VIEWS = 1000

ModelName = Literal["vggt", "pi3", "mapanything"]
StoredDtype = Literal["float32", "float16", "bfloat16"]
Precision = Literal["fp32", "fp16", "bf16", "fp8"]


def _default(text: str) -> object:
    """Return the annotation of an option whose None means a value that help shows as this text."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {text})")


@dataclass(frozen=True)
class ExportOptions:
    """Turn a checkpoint into a bundle of ONNX graphs.

    Attributes:
        model: Architecture of the checkpoint.
        out: Folder of the bundle to write; it must not exist yet.
        weights: Safetensors file, index of several, folder with one of these, or Hugging Face id of
            the weights.
        config: JSON file with the configuration of the model.
        height: Height of the images in pixels, a multiple of 14.
        width: Width of the images in pixels, a multiple of 14.
        resize: Way to bring VGGT's photos to that size: `crop`, or `pad` with a white border. The
            other models have one way.
        dtype: Type in which the weights are stored; `float32` takes the file as it is. There is a
            choice with `--precision fp32` alone: the others store the type of their computation.
        precision: Type in which linear layers, convolutions and attention compute. The residual
            stream, LayerNorm and softmax statistics stay in float32. `fp8` is fp16 with the linear
            layers in FP8 (e4m3), and requires `--calibration`.
        calibration: Folder of photos that set the scales of `--precision fp8`; use photos of the
            kind that the bundle is meant for.
        fp8_attention: Allow FP8 in the attention kernels, too; requires `--precision fp8`.
        max_views: Largest number of views, up to 1,000,000, for which MLPs, projections and pooled
            block maps are cut into exact parts, so that no tensor exceeds TensorRT's limit of 2^31
            elements.
        keep_fp32: Parts that stay in float32 in a narrow bundle, separated by commas: `heads`,
            names of stages, or `stage/layer` with a layer's name in the checkpoint. For no part,
            give `none`.
        pooling: Comparison that gives the similarity of two views: one descriptor a view, or the
            best matches of the tokens of both.
        move_weights: Move the weights file into the bundle instead of copying it.
        verify: Compare every graph with torch before the bundle is finished.
        force: Replace an existing bundle.
        sparsity: Selector options to store in the bundle; each run can change them.
    """

    model: tyro.conf.Positional[ModelName]
    out: Path
    weights: Annotated[str | None, _default("the official weights")] = None
    config: Annotated[Path | None, _default("the official configuration")] = None
    height: int = 392
    width: int = 518
    resize: Literal["crop", "pad"] = "crop"
    dtype: StoredDtype = "float32"
    precision: Precision = "fp32"
    keep_fp32: str = "heads"
    calibration: Annotated[Path | None, _default("none")] = None
    fp8_attention: bool = False
    max_views: int = MAX_VIEWS
    pooling: Literal["descriptor", "best-match"] = "descriptor"
    move_weights: bool = False
    verify: bool = True
    force: bool = False
    sparsity: Annotated[Sparsity, tyro.conf.OmitArgPrefixes] = field(default_factory=Sparsity)

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
        if not 1 <= self.max_views <= VIEWS.most:
            raise user_error(
                f"{self.max_views} is not in [1, {VIEWS}]",
                where="--max-views",
                hint="give a number of views",
            )


def read_config(path: Path | None) -> dict[str, Any] | None:
    """Return the configuration in a JSON file: the object itself, or its member `config`.

    Raises:
        CovisError: the file is missing or contains no JSON object.
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
