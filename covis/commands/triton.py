"""`covis triton`: write a bundle as a model repository for Triton Inference Server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from covis.commands.arguments import BundlePath, default
from covis.engines.errors import user_error
from covis.engines.options import Selector


@dataclass(frozen=True)
class TritonCommand:
    """Write a model repository for Triton Inference Server.

    Attributes:
        bundle: Bundle to serve: a folder that `covis export` wrote.
        out: Folder of the model repository to write; it must not exist yet.
        backend: Triton backend that serves the stages: `tensorrt` with the plans of `covis build`,
            or `onnxruntime` with the graphs themselves.
        selector: Selector of the ensemble; it decides which aggregator runs.
        views: Number of views that the plans must support. The ensemble runs all of them at once,
            so build the encoder and the heads with a --chunk of as many.
        plans: Folder of the plans to serve.
        plugin: TensorRT plugin library that the server loads.
        trust_plan: Sha256 of each plan to serve although another user built it. A plan is
            executable code, so trust only plans whose origin you know.
        device: Index of the server's GPU, as CUDA counts them, from 0.
        force: Replace an existing repository if covis wrote everything in it.
    """

    bundle: BundlePath
    out: Path
    backend: Literal["tensorrt", "onnxruntime"] = "tensorrt"
    selector: Annotated[Selector | None, default("the bundle's")] = None
    views: int = 16
    plans: Annotated[Path | None, default("the bundle's own folder `plans`")] = None
    plugin: Annotated[Path | None, default("the one that covis installed")] = None
    trust_plan: Annotated[tuple[str, ...], default("none")] = ()
    device: int = 0
    force: bool = False

    def __post_init__(self) -> None:
        if self.views < 1:
            raise user_error(f"{self.views} is below 1", where="--views", hint="use 1 or more")
        if self.device < 0:
            raise user_error(f"{self.device} is negative", where="--device", hint="use 0 or more")


def triton(command: TritonCommand) -> None:
    """Write the repository and print the command that serves it."""
    from covis.engines.bundle.bundle import open_bundle
    from covis.engines.bundle.folder import PLANS
    from covis.engines.options import SparsityChanges
    from covis.engines.schedule import resolve
    from covis.engines.system.atomic import check_folder_target
    from covis.engines.tensorrt.triton import TritonOptions, write_repository
    from covis.runtime.flow import stage_names

    check_folder_target(command.out, force=command.force)
    bundle = open_bundle(command.bundle)
    manifest = bundle.manifest
    chosen = SparsityChanges(selector=command.selector).apply(manifest.sparsity)
    sparsity = resolve(chosen, command.views)
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
