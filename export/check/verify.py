"""Compare every exported graph with its torch module before the bundle is finished."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from covis.engines.bundle.manifest import Check
from covis.engines.errors import environment_error, numerics_error, printable
from covis.engines.system.children import end_with_parent
from covis.export.check.run_graph import run_graph
from covis.export.stage import Port, StageModule
from covis.export.weights.page_cache import release_pages

VIEW_COUNTS = (1, 2)
_FLOAT64_LIMIT = 50_000_000  # parameters up to which a float64 reference is affordable

# Largest difference between float32 and float64 of the original implementations, over the largest
# value, among all outputs of all models in tests/golden. Noise grows with depth, so models that are
# too large for a float64 run use this figure as their noise.
_TYPICAL_NOISE = 1.1e-5


def verify_stages(
    stages: Sequence[StageModule], folder: Path, image_size: tuple[int, int], seed: int = 0
) -> Iterator[Check]:
    """Compare each graph of a bundle with torch; each is fed with torch's own results.

    A result passes within max(10 x noise, 1e-5 x largest value). The noise is the difference
    between torch's float32 and float64 results; for large models it is a fixed share of the largest
    value. ONNX Runtime runs in its own process without torch, and the pages of a stage's weights
    are released after the stage, so peak memory stays near the weights of one stage.

    Args:
        stages: Stages in the order of the data flow.
        folder: Folder with the graphs as `<stage>.onnx` and the weights that they refer to.
        image_size: Height and width of the images in pixels.
        seed: Seed of the test images.

    Yields:
        A `Check` for each output, stage and number of views, passed or not.

    Raises:
        CovisError: a graph cannot be run at all.
    """
    with helper() as pool, torch.inference_mode():
        flows = {n: control_inputs(n, image_size, seed) for n in VIEW_COUNTS}
        for stage in stages:
            for views, values in flows.items():
                feeds = {port.name: feed(port, values, stage) for port in stage.inputs}
                reference = run_torch(stage, feeds)
                noise = _noise(stage, feeds, reference)
                release_pages(stage.module.parameters())
                arrays = {name: tensor.numpy() for name, tensor in feeds.items()}
                graph = folder / f"{stage.name}.onnx"
                got = run_in(pool, stage.name, run_graph, graph, arrays)
                for port in stage.outputs:
                    yield _compare(stage.name, views, port.name, reference[port.name], got, noise)
                values.update(reference)


@contextlib.contextmanager
def helper() -> Iterator[ProcessPoolExecutor]:
    """Start a process without torch that ignores Ctrl-C; the parent handles Ctrl-C and ends it."""
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent) as pool:
        # Blocked signals are inherited; a handler would come too late, after the imports.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            pool.submit(int)  # starts the process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            yield pool
        except BaseException:
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()  # leaving the pool would wait for the graph under way
            raise


def run_in(
    pool: ProcessPoolExecutor,
    stage: str,
    run: Callable[..., dict[str, NDArray[Any]]],
    *arguments: object,
) -> dict[str, NDArray[Any]]:
    """Run the graph of a stage in the helper process, by `run` with these arguments.

    Raises:
        CovisError: the graph cannot be run.
    """
    try:
        return pool.submit(run, *arguments).result()
    except Exception as error:  # an exception type of ONNX Runtime, or the process died
        reason = printable(str(error).strip() or type(error).__name__)[:400]
        raise environment_error(
            f"the graph cannot be run ({reason})",
            where=f"stage {stage}",
            hint="free memory if it was short; otherwise please report it",
        ) from error


def refuse_failures(checks: Sequence[Check]) -> None:
    """Raise CovisError (exit code 4) for the worst check that did not pass, if there is one."""
    failed = [check for check in checks if not check.passed]
    if not failed:
        return
    worst = max(failed, key=lambda check: check.max_abs_diff / max(check.tolerance, 1e-30))
    raise numerics_error(
        f"{worst.output} differs from torch by {worst.max_abs_diff:.2g} at {worst.views} views, "
        f"{worst.tolerance:.2g} allowed ({len(failed)} of {len(checks)} checks failed)",
        where=f"stage {worst.stage}",
        hint="this is a fault of the exporter or of ONNX Runtime: please report it",
    )


def control_inputs(views: int, image_size: tuple[int, int], seed: int) -> dict[str, Tensor]:
    """Return test inputs with smooth random pictures.

    Networks behave on smooth pictures as on photos, but not on white noise.
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(views, 3, 8, 8, generator=generator)
    images = nn.functional.interpolate(coarse, size=image_size, mode="bicubic").clamp(0, 1)
    return {
        "images": images,
        # One map of each regime: dense, self, saliency, anchors.
        "tau": torch.tensor([0.0, 2.0, 0.5, 2.0]),
        "tau_low": torch.tensor([0.0, 2.0, 0.25, 2.0]),
        "anchors": torch.tensor([0, 0, 0, 2]),
        "min_neighbours": torch.tensor([0, 0, 1, 1]),
        "own_frame": torch.tensor([True, True, True, False]),
        "reference": torch.tensor(-1),
        "to_reference": torch.tensor([False, False, True, True]),
        "from_reference": torch.tensor([False, False, True, False]),
        # Two views are equally similar on average: which of them is first, rounding would decide.
        "anchor_order": torch.where(torch.arange(views) == 0, 0, -1),
        "probe": torch.arange(0, 7 * views, 3),
    }


_OPTIONS = frozenset(["tau", "tau_low", "keep_ratio", "cdf"])
"""Inputs that are float32 by contract, in a comparison with float64 too."""


def feed(port: Port, values: Mapping[str, Tensor], stage: StageModule) -> Tensor:
    """Return the tensor of a port: from `values`, or a test value of a control input."""
    if port.name in values:
        return values[port.name]
    if port.name == "layer_map":
        return torch.arange(int(port.shape[0])) % len(values["tau"])  # every regime is used
    if port.name == "keep_ratio":
        return torch.where(torch.arange(int(port.shape[0])) % 3 == 2, 1.0, 0.5)
    if port.name == "cdf":
        return torch.zeros(int(port.shape[0]))
    if port.name == "patch_order":
        return torch.arange(int(port.shape[0])).flip(0)
    raise KeyError(f"stage {stage.name} reads {port.name!r}, which no earlier stage writes")


def run_torch(stage: StageModule, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run the torch module of a stage and return its outputs by name."""
    outputs = stage.module.eval()(*(feeds[port.name] for port in stage.inputs))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return {port.name: value for port, value in zip(stage.outputs, outputs, strict=True)}


def _noise(
    stage: StageModule, feeds: Mapping[str, Tensor], reference: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return, by output, the difference of float32 from float64, or its typical value."""
    if sum(p.numel() for p in stage.module.parameters()) > _FLOAT64_LIMIT:
        return {name: _TYPICAL_NOISE * _largest(value) for name, value in reference.items()}
    import copy

    wide = StageModule(
        stage.name, stage.scope, copy.deepcopy(stage.module).double(), stage.inputs, stage.outputs
    )
    exact = run_torch(
        wide,
        {
            n: t.double() if t.is_floating_point() and n not in _OPTIONS else t
            for n, t in feeds.items()
        },
    )
    return {
        n: float((value.double() - exact[n].double()).abs().max()) for n, value in reference.items()
    }


def _largest(value: Tensor) -> float:
    return float(value.abs().max()) if value.numel() else 0.0


def _compare(
    stage: str,
    views: int,
    output: str,
    reference: Tensor,
    got: Mapping[str, NDArray[Any]],
    noise: Mapping[str, float],
) -> Check:
    ours = got[output]
    expected = reference.numpy()
    tolerance = max(10.0 * noise[output], 1e-5 * _largest(reference.double()))
    if ours.shape != expected.shape or not np.isfinite(ours).all():
        difference = 1e30  # JSON has no infinity
    else:
        difference = float(np.abs(ours.astype(np.float64) - expected).max(initial=0.0))
    return Check(
        stage=stage, views=views, output=output, max_abs_diff=difference, tolerance=tolerance
    )
