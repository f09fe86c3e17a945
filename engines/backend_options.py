"""Options that say where a bundle's stages run; the same object is CLI and API."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from covis.engines.errors import user_error

BackendName = Literal["onnxruntime", "onnxruntime-tensorrt", "tensorrt"]


@dataclass(frozen=True)
class BackendOptions:
    """Where a bundle's stages run.

    Attributes:
        backend: `onnxruntime`; `onnxruntime-tensorrt`, ONNX Runtime with its TensorRT provider;
            `tensorrt`, the plans of `covis build`.
        provider: of `onnxruntime`: `cpu`, or `cuda`, which needs onnxruntime-gpu. The others
            always run on a GPU.
        device: which GPU, as CUDA counts them.
        plans: folder of the plans; the bundle's own `plans` where not given.
        plugin: the TensorRT plugin library, where it is not the package's own.
        trust_plan: sha256 of plans to run although this user did not build them. A plan is
            executable code.
        cuda_graphs: replay CUDA graphs in the stages that run in chunks (`tensorrt`).
    """

    backend: BackendName = "onnxruntime"
    provider: Literal["cpu", "cuda"] = "cpu"
    device: int = 0
    plans: Path | None = None
    plugin: Path | None = None
    trust_plan: tuple[str, ...] = ()
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        if self.device < 0:
            raise user_error(f"{self.device} is negative", where="--device", hint="use 0 or more")

    @property
    def on_gpu(self) -> bool:
        """Whether the stages run on a GPU."""
        return self.backend != "onnxruntime" or self.provider == "cuda"
