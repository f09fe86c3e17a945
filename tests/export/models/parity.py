"""Compare a model with the original's recorded numbers, case by case."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from covis.export.models import MultiViewModel, load_model, stages
from covis.export.ops import dense_level
from tests.golden_data import golden, golden_json, tolerance

FP64_FACTOR = 1.5  # what a right implementation in float64 may differ from the original's float32


def recorded_model(name: str, config: str) -> MultiViewModel:
    """Return the tiny model of that golden configuration, e.g. ("vggt", "vggt_a1")."""
    record = golden_json(f"{config}.json")
    return load_model(name, record["config"], golden(record["weights"]))


def recorded_cases(config: str) -> Iterator[tuple[dict[str, Any], dict[str, Tensor]]]:
    """Yield every case of a configuration: its record and its tensors."""
    for case in golden_json(f"{config}.json")["cases"]:
        yield case, load_file(golden(case["file"]))


def assert_same(
    values: dict[str, Tensor], case: dict[str, Any], tensors: dict[str, Tensor], *, exact: bool
) -> None:
    """Compare every value with its recorded one; `exact` applies the stricter float64 rule.

    Names are those of the record: `out.*` and `inter.*` without the `out.`.
    """
    recorded = {key.removeprefix("out.") for key in tensors if key != "images"}
    assert recorded == values.keys(), "every recorded tensor must be compared"
    for name, value in values.items():
        reference = tensors[name if name.startswith("inter.") else f"out.{name}"]
        noise = case["max_abs_diff_fp32_vs_fp64"][name]
        assert value.shape == reference.shape, name
        difference = (value.double() - reference.double()).abs().max().item()
        allowed = tolerance(noise, reference.abs().max().item())
        if exact:
            allowed = max(FP64_FACTOR * noise, torch.finfo(torch.float32).tiny)
        assert difference <= allowed, f"{case['file']} {name}: {difference:.3g} > {allowed:.3g}"


def run_stages(model: MultiViewModel, images: Tensor) -> dict[str, Tensor]:
    """Return all values by name after running the dense stages in order, as the runtime does."""
    values = {
        "images": images,
        "pair_levels": dense_level()[0],
        "layer_map": torch.zeros(model.global_layers, dtype=torch.int64),
        "probe": torch.zeros(0, dtype=torch.int64),
    }
    for stage in stages(model, *images.shape[-2:]):
        if stage.name == "aggregator_pooled":
            continue
        with torch.inference_mode():
            outputs = stage.module(*(values[port.name] for port in stage.inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        values |= {p.name: v for p, v in zip(stage.outputs, outputs, strict=True)}
    return values


class Recorder:
    """Records the results of chosen submodules while a model runs."""

    def __init__(self, **modules: torch.nn.Module) -> None:
        self.seen: dict[str, Tensor] = {}
        self._handles = [
            module.register_forward_hook(self._keep(name)) for name, module in modules.items()
        ]

    def _keep(self, name: str) -> Any:
        def hook(module: torch.nn.Module, inputs: object, output: Tensor) -> None:
            self.seen[name] = output

        return hook

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


def precisions() -> pytest.MarkDecorator:
    """Parametrise a test over the two ways of comparing."""
    return pytest.mark.parametrize("exact", [False, True], ids=["float32", "float64"])
