"""Run the reference of `covis compare --reference-backend torch` with the exporter's modules."""

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
    """Return functions that run each stage of a bundle in torch, from the bundle's weights.

    Raises:
        CovisError: Torch is not installed (exit code 3).
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
    with bundle.weights.by_name() as weights:
        model = load_model(manifest.model.name, manifest.model.config, weights)
    encoder, *others = stages(model, rule.height, rule.width)
    channels = encoder.outputs[0].shape[-1]
    assert isinstance(channels, int)
    grid = patch_grid(rule.height, rule.width)
    saliency = saliency_stage(*grid, channels, manifest.pooling)
    return {stage.name: _runner(stage, chunk) for stage in (encoder, saliency, *others)}


def _runner(stage: StageModule, chunk: int) -> Runner:
    """Return a function that runs a stage in torch, on host arrays."""

    def run(
        step: Step, images: Images, values: Mapping[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        import torch

        from covis.runtime.stage_io import empty_outputs, run_in_chunks

        module = stage.module.eval()
        outputs = empty_outputs(step.stage, len(images), values)

        def run_chunk(
            size: int, inputs: dict[str, NDArray[Any]], part: dict[str, NDArray[Any]]
        ) -> None:
            feeds = (torch.from_numpy(inputs[port.name]) for port in stage.inputs)
            with torch.inference_mode():
                results = module(*feeds)
            results = results if isinstance(results, tuple) else (results,)
            for port, result in zip(stage.outputs, results, strict=True):
                part[port.name][...] = result.numpy()

        run_in_chunks(step.stage, images, values, outputs, run_chunk, length=chunk)
        return outputs

    return run
