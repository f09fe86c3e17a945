"""`covis triton`: a bundle as a model repository for Triton Inference Server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from covis.engines.errors import user_error
from covis.engines.options import Selector


@dataclass(frozen=True)
class TritonCommand:
    """Write a model repository for Triton Inference Server.

    Attributes:
        bundle: a folder made by `covis export`.
        out: the repository's folder, which must not exist yet.
        backend: `tensorrt` serves the plans of `covis build`, `onnxruntime` the graphs themselves.
        selector: decides the aggregator that the ensemble runs; the bundle's own where not given.
        views: number of views that the plans must hold; the ensemble runs them in one go, so
            build encoder and heads with a --chunk of as many.
        plans: folder of the plans; the bundle's own where not given.
        plugin: the TensorRT plugin library, where it is not the package's own.
        trust_plan: sha256 of plans to serve although this user did not build them.
        device: the server's GPU.
        force: replace an existing folder.
    """

    bundle: tyro.conf.Positional[Path]
    out: Path
    backend: Literal["tensorrt", "onnxruntime"] = "tensorrt"
    selector: Selector | None = None
    views: int = 16
    plans: Path | None = None
    plugin: Path | None = None
    trust_plan: tuple[str, ...] = ()
    device: int = 0
    force: bool = False

    def __post_init__(self) -> None:
        if self.views < 1:
            raise user_error(f"{self.views} is below 1", where="--views", hint="use 1 or more")
        if self.device < 0:
            raise user_error(f"{self.device} is negative", where="--device", hint="use 0 or more")


def triton(command: TritonCommand) -> None:
    """Write the repository and print the command that serves it."""
    from covis.engines.bundle.bundle import PLANS, open_bundle
    from covis.engines.options import SparsityChanges
    from covis.engines.tensorrt.triton import TritonOptions, write_repository
    from covis.runtime.controls import stage_names

    bundle = open_bundle(command.bundle)
    manifest = bundle.manifest
    sparsity = SparsityChanges(selector=command.selector).apply(manifest.sparsity)
    options = TritonOptions(
        backend=command.backend,
        stages=tuple(manifest.stage(name) for name in stage_names(manifest, sparsity)),
        views=command.views,
        plans=command.plans or bundle.path / PLANS,
        plugin=command.plugin,
        trusted=command.trust_plan,
        gpu=command.device,
    )
    print(write_repository(bundle, options, command.out, force=command.force))
