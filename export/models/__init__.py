"""The three models in PyTorch, with the parameter names of their official checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from covis.engines.errors import user_error
from covis.export.models.config import from_mapping
from covis.export.models.mapanything import MapAnything
from covis.export.models.mapanything_config import MapAnythingConfig, hub_fields, read_hub_config
from covis.export.models.multiview import MultiViewModel
from covis.export.models.pi3 import Pi3, Pi3Config
from covis.export.models.stages import stages
from covis.export.models.vggt import Vggt, VggtConfig
from covis.export.weights.find import find_weights
from covis.export.weights.keys import canonical
from covis.export.weights.load import fill, read_weights

__all__ = [
    "MODELS",
    "ModelInfo",
    "MultiViewModel",
    "build_model",
    "load_model",
    "model_info",
    "stages",
]


@dataclass(frozen=True)
class ModelInfo:
    """Registry entry of a model: classes, and sources of its official weights.

    Attributes:
        model: Class of the module.
        config: Class of its configuration, whose defaults are the official model.
        repository: Default Hugging Face id of the weights.
        revision: Commit of that repository; `main` where the commit could not be verified.
        sizes: Reads the fields of the configuration from a `config.json` beside the weights.
        fields: Converts a configuration in the model's published form to the fields of `config`;
            other configurations stay as they are.
    """

    model: type[MultiViewModel]
    config: type[Any]
    repository: str
    revision: str
    sizes: Callable[[Path], Mapping[str, Any] | None] = lambda path: None
    fields: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda config: config


MODELS: dict[str, ModelInfo] = {
    "vggt": ModelInfo(Vggt, VggtConfig, "facebook/VGGT-1B", "main"),
    "pi3": ModelInfo(Pi3, Pi3Config, "yyfz233/Pi3", "main"),
    "mapanything": ModelInfo(
        MapAnything,
        MapAnythingConfig,
        "facebook/map-anything-apache",
        "main",
        read_hub_config,
        hub_fields,
    ),
}


def model_info(name: str) -> ModelInfo:
    """Return the registry entry of that name; the error for an unknown name lists all names."""
    if name not in MODELS:
        raise user_error("no such model", where=name, hint=f"choose one of {', '.join(MODELS)}")
    return MODELS[name]


def build_model(name: str, config: Mapping[str, Any] | None = None) -> MultiViewModel:
    """Build a model without trained weights, in evaluation mode.

    Under `with torch.device("meta")` it needs no memory. To trace it without data, use a
    FakeTensorMode, because position tables are real CPU tensors, which meta tensors cannot be mixed
    with.
    """
    info = model_info(name)
    return info.model(from_mapping(info.config, config, info.config.NOTES)).eval()


def load_model(
    name: str,
    config: Mapping[str, Any] | None = None,
    weights: Path | str | Mapping[str, Tensor] | None = None,
) -> MultiViewModel:
    """Load a model with trained weights, float32 on the CPU, in evaluation mode, without gradients.

    Args:
        name: `vggt`, `pi3` or `mapanything`.
        config: Fields of the configuration that differ from the official one, or the published
            `config.json` of a MapAnything. None: the `config.json` beside the weights where the
            model publishes one, else the official configuration. A part that the model can do
            without is left out if the weights have nothing of it.
        weights: Safetensors file, index of a sharded checkpoint, folder with one of these, Hugging
            Face id, or tensors by key; None: the official weights.

    Raises:
        CovisError: an unknown model or field; weights that are missing, unreadable, of another
            model, or not finite. The message contains all offending keys.
    """
    info = model_info(name)
    where: Path | str = "weights"
    ours = not isinstance(weights, Mapping)
    if not isinstance(weights, Mapping):
        official = weights is None or str(weights) == info.repository
        source = info.repository if weights is None else weights
        where = find_weights(source, info.revision if official else None)
        weights = read_weights(where)
        if config is None:
            config = info.sizes(where)
    config = _without_absent_parts(info, info.fields(config or {}), weights)
    with torch.device("meta"):
        model = build_model(name, config)
    fill(
        model,
        weights,
        where=where,
        name=name,
        ignored=model.ignored_keys,
        aliases=model.aliases,
        ours=ours,
    )
    return model.requires_grad_(False)


def _without_absent_parts(
    info: ModelInfo, config: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> Mapping[str, Any]:
    """Return `config` without the optional parts of the model that the weights lack altogether."""
    names = canonical(weights, info.model.aliases)
    absent = [
        part
        for part in info.model.optional_parts
        if part not in config and not any(name.startswith(f"{part}.") for name in names)
    ]
    return {**config, **dict.fromkeys(absent, False)}
