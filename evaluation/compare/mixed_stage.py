"""A stage some of whose layers are the reference's and the others the candidate's, on the CPU."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from covis.engines.bundle.bundle import Bundle
from covis.engines.bundle.manifest import Stage
from covis.engines.dtypes import numpy_dtype
from covis.engines.errors import environment_error, first_line
from covis.engines.graphs.mixed import LayeredGraph, common_layers, layered, mix
from covis.engines.graphs.read import load_graph
from covis.engines.system.native import ORT_LIBRARY, find_library
from covis.engines.system.ort_settings import import_onnxruntime, session_settings
from covis.runtime import flow
from covis.runtime.photos.images import Images

Array = NDArray[Any]
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


class MixedStage:
    """Makes runners of one stage with any choice of layers, from two bundles of one model."""

    def __init__(
        self, reference: Bundle, candidate: Bundle, name: str, *, threads: int = 0
    ) -> None:
        """Read both graphs.

        Args:
            reference: gives the types of inputs and outputs.
            candidate: must hold a stage of the same name.
            name: of the stage.
            threads: of ONNX Runtime; 0 takes every core.
        """
        self.stage: Stage = reference.manifest.stage(name)
        self._threads = threads
        self._bundles = (reference, candidate)
        self._sides: tuple[LayeredGraph, LayeredGraph] = (
            layered(load_graph(reference.graph(reference.manifest.stage(name)))),
            layered(load_graph(candidate.graph(candidate.manifest.stage(name)))),
        )

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that can be taken from either, in the reference's order."""
        return common_layers(*self._sides)

    def load(self, kept: Collection[str]) -> Any:
        """A session of the stage with the `kept` layers as the reference has them.

        Raises:
            CovisError: ONNX Runtime refuses the mixture.
        """
        ort = import_onnxruntime()
        model = mix(*self._sides, kept)
        settings = session_settings(self._threads, find_library(ORT_LIBRARY))
        # One folder of weights can be named; the candidate's tensors are handed over, unread.
        folder = f"{self._bundles[0].path.resolve()}/"
        settings.add_session_config_entry(_WEIGHTS_FOLDER, folder)
        theirs = self._mapped(model)
        settings.add_external_initializers(list(theirs), list(theirs.values()))
        try:
            return ort.InferenceSession(
                model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise environment_error(
                f"ONNX Runtime cannot load a mixture of its layers ({first_line(error)})",
                where=f"stage {self.stage.name}",
                hint="find the stage alone, without --by-layer",
            ) from error

    def run(
        self, session: Any, images: Images, values: Mapping[str, Array], chunk: int
    ) -> dict[str, Array]:
        """All outputs of a mixture, on host arrays of any type."""
        views = len(images)
        names = [tensor.name for tensor in self.stage.outputs]
        step = min(chunk, views) if self.stage.scope == "frames" else views
        parts = []
        for first, last in flow.chunks(views, step):
            inputs = {}
            for tensor in self.stage.inputs:
                value = (
                    images.batch(first, last) if tensor.name == "images" else values[tensor.name]
                )
                if tensor.name != "images" and tensor.shape[:1] == ("N",):
                    value = value[first:last]
                inputs[tensor.name] = value.astype(numpy_dtype(tensor.dtype), copy=False)
            parts.append(session.run(names, inputs))
        if len(parts) == 1:
            return dict(zip(names, parts[0], strict=True))
        return {name: np.concatenate(found) for name, *found in zip(names, *parts, strict=True)}

    def _mapped(self, model: onnx.ModelProto) -> dict[str, Any]:
        """The candidate's external tensors, memory-mapped, by their names in the mixture."""
        ort = import_onnxruntime()
        weights = np.memmap(self._bundles[1].weights, np.uint8, "r")
        found: dict[str, Any] = {}
        for tensor in model.graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            if not entries.get("location", "").startswith("candidate/"):
                continue
            start, size = int(entries.get("offset", "0")), int(entries["length"])
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            array = weights[start : start + size].view(dtype).reshape(tuple(tensor.dims))
            found[tensor.name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
                array, tensor.data_type
            )
        return found
