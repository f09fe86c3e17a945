"""Calibrate FP8 scales: the largest magnitude that each linear layer reads on a user's photos.

Scales are absolute maxima, one a layer, and no percentiles, because e4m3 is a floating-point type.
A large scale costs small numbers no relative precision until they are 2^15 below the largest.
Clipping would cut the few tokens of very large norm, in which these encoders store their global
state.

The statistics are computed in torch and not in ONNX Runtime, because the graphs' own attention
allocates the S x S matrix: 4.4 GB at eight photos of the full model. nvidia-modelopt is not used.
It calibrates one graph by itself, but a stage here reads the results of other stages. It would also
bring its own exporter and versions of torch for one number a layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from covis.engines.errors import numerics_error
from covis.export.check.verify import control_inputs, feed, run_torch
from covis.export.passes.quantize import scale_of
from covis.export.stage import OnProgress, StageModule
from covis.export.weights.load import read_weights
from covis.export.weights.page_cache import release_pages

MOST_PHOTOS = 16  # of one scene; more photos hardly change maxima, and cost grows with the square
_CHUNK = 4  # frames at once


def input_peaks(
    stages: Sequence[StageModule],
    images: NDArray[np.float32],
    on_progress: OnProgress = lambda text: None,
) -> dict[str, float]:
    """Return, by layer, the largest magnitude that each linear layer reads over these photos.

    Args:
        stages: Stages with float32 weights, in the order of the data flow.
        images: Photos (M, 3, H, W) in [0, 1]; at most `MOST_PHOTOS`, evenly spread, are used.
        on_progress: Called with one line of text after each stage.

    Raises:
        CovisError: a layer reads numbers that are not finite (exit code 4).
    """
    chosen = np.linspace(0, len(images) - 1, min(len(images), MOST_PHOTOS)).round().astype(int)
    photos = torch.from_numpy(images[chosen])
    values = control_inputs(len(photos), (photos.shape[2], photos.shape[3]), 0)
    values["images"] = photos
    peaks: dict[str, float] = {}
    with torch.inference_mode():
        for stage in stages:
            with _watching(stage.module, peaks):
                feeds = {port.name: feed(port, values, stage) for port in stage.inputs}
                values.update(_run(stage, feeds, len(photos)))
            release_pages(stage.module.parameters())
            on_progress(f"calibrated {stage.name} on {len(photos)} photos")
    for layer, peak in peaks.items():
        if not np.isfinite(peak):
            raise numerics_error(
                "reads numbers that are not finite",
                where=f"layer {layer}",
                hint="check the weights and the photos",
            )
    return peaks


def weight_scales(source: Path, keys: Sequence[str]) -> dict[str, float]:
    """Return, by name, the scale at which a tensor of a checkpoint fills the FP8 range."""
    weights = read_weights(source)
    return {key: scale_of(float(weights[key].abs().max())) for key in keys}


def _run(stage: StageModule, feeds: Mapping[str, Tensor], views: int) -> dict[str, Tensor]:
    if stage.scope == "sequence":
        return run_torch(stage, feeds)
    parts = []
    for first in range(0, views, _CHUNK):
        chunk = {
            port.name: feeds[port.name][first : first + _CHUNK]
            if "N" in port.shape
            else feeds[port.name]
            for port in stage.inputs
        }
        parts.append(run_torch(stage, chunk))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@contextlib.contextmanager
def _watching(module: nn.Module, peaks: dict[str, float]) -> Iterator[None]:
    """Raise the entries of `peaks` by the inputs of every linear layer that runs here."""
    handles = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            place = name.removeprefix("model.")

            def note(_layer: nn.Module, inputs: tuple[Tensor, ...], place: str = place) -> None:
                peak = float(inputs[0].abs().max()) if inputs[0].numel() else 0.0
                peaks[place] = float(np.maximum(peaks.get(place, 0.0), peak))  # NaN stays NaN

            handles.append(layer.register_forward_pre_hook(note))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
