"""Check of a bundle's graphs against its manifest."""

from __future__ import annotations

from pathlib import Path

import onnx

from covis.engines.bundle.folder import EXPORT
from covis.engines.bundle.manifest import Manifest, Stage, Tensor
from covis.engines.errors import user_error
from covis.engines.graphs.read import external_data, signature


def check_graph(model: onnx.ModelProto, path: Path, stage: Stage, manifest: Manifest) -> None:
    """Compare a graph's inputs, outputs and external data with the manifest.

    Raises:
        CovisError: naming the first difference (exit code 2).
    """
    for kind, tensors, ports in zip(
        ("input", "output"), (stage.inputs, stage.outputs), signature(model), strict=True
    ):
        listed = {tensor.name: tensor for tensor in tensors}
        for name in sorted(listed.keys() ^ ports.keys()):
            where = "graph" if name in ports else "manifest"
            raise user_error(f"only the {where} has {kind} {name!r}", where=path, hint=EXPORT)
        for name, port in ports.items():
            if port.dtype != listed[name].dtype or not _fits(listed[name], port.shape):
                raise user_error(
                    f"{kind} {name!r} is {port.dtype} {_dims(port.shape)} in the graph, "
                    f"{listed[name].dtype} {_dims(listed[name].shape)} in the manifest",
                    where=path,
                    hint=EXPORT,
                )
    size = next(file.size for file in manifest.files if file.path == manifest.weights.file)
    for entry in external_data(model):
        if entry.location != manifest.weights.file:
            raise user_error(
                f"tensor {entry.tensor!r} points to {entry.location!r}, not to the weights file",
                where=path,
                hint="do not trust this bundle",
            )
        if entry.offset < 0 or entry.length < 0 or entry.offset + entry.length > size:
            raise user_error(
                f"tensor {entry.tensor!r} points past the end of {entry.location!r}",
                where=path,
                hint=EXPORT,
            )


def _fits(tensor: Tensor, shape: tuple[int | None, ...] | None) -> bool:
    """Return True if a graph's shape matches the manifest's; its symbols match any size."""
    if shape is None:
        return True
    listed = tuple(size if isinstance(size, int) else None for size in tensor.shape)
    return len(listed) == len(shape) and all(
        dim is None or dim == size for dim, size in zip(shape, listed, strict=True)
    )


def _dims(shape: tuple[int | str | None, ...] | None) -> str:
    if shape is None:
        return "of any shape"
    return f"({', '.join('?' if dim is None else str(dim) for dim in shape)})"
