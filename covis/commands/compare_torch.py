"""What runs the reference of `covis compare --reference-backend torch`: the exporter's modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from covis.engines.errors import environment_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from covis.engines.bundle.bundle import Bundle
    from covis.evaluation.compare.stages import Runner
    from covis.export.stage import StageModule
    from covis.runtime.flow import Step
    from covis.runtime.photos.images import Images


def torch_runners(bundle: Bundle, chunk: int) -> dict[str, Runner]:
    """What runs each stage of a bundle in torch, from the bundle's own weights.

    Raises:
        CovisError: torch is not installed (exit code 3).
    """
    try:
        from covis.export.models import load_model
        from covis.export.models.multiview import patch_grid
        from covis.export.models.stages import stages
        from covis.export.selection.saliency import saliency_stage
    except ImportError as error:
        raise environment_error(
            f"torch is needed for this reference ({error})", hint="pip install 'covis[cpu,export]'"
        ) from error

    manifest = bundle.manifest
    rule = manifest.pixel_rule
    model = load_model(manifest.model.name, manifest.model.config, bundle.weights)
    encoder, *others = stages(model, rule.height, rule.width)
    channels = encoder.outputs[0].shape[-1]
    assert isinstance(channels, int)
    grid = patch_grid(rule.height, rule.width)
    saliency = saliency_stage(*grid, channels, manifest.pooling)
    return {stage.name: _runner(stage, chunk) for stage in (encoder, saliency, *others)}


def _runner(stage: StageModule, chunk: int) -> Runner:
    def run(
        step: Step, images: Images, values: Mapping[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        import numpy as np
        import torch

        from covis.runtime.flow import chunks

        views = len(images)
        parts: list[tuple[torch.Tensor, ...]] = []
        length = min(chunk, views) if stage.scope == "frames" else views
        with torch.inference_mode():
            for first, last in chunks(views, length):
                feeds = []
                for port in stage.inputs:
                    if port.name == "images":
                        value = images.batch(first, last)
                    else:
                        value = np.asarray(values[port.name])
                        value = value[first:last] if port.shape[:1] == ("N",) else value
                    feeds.append(torch.from_numpy(value))
                made = stage.module.eval()(*feeds)
                parts.append(made if isinstance(made, tuple) else (made,))
        outputs = (torch.cat(p) if len(p) > 1 else p[0] for p in zip(*parts, strict=True))
        return {
            port.name: value.numpy() for port, value in zip(stage.outputs, outputs, strict=True)
        }

    return run
