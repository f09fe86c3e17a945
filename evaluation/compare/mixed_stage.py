"""Run a stage with some layers from the reference and others from the candidate, on the CPU."""

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
from covis.engines.system.native import ORT_LIBRARY, find_library
from covis.engines.system.ort_settings import import_onnxruntime, session_settings
from covis.runtime.backends.ort_load import WEIGHTS_FOLDER
from covis.runtime.photos.images import Images
from covis.runtime.stage_io import empty_outputs, run_in_chunks

Array = NDArray[Any]


class MixedStage:
    """One stage of two bundles of the same model, with any choice of layers from either."""

    def __init__(
        self, reference: Bundle, candidate: Bundle, name: str, *, threads: int = 0
    ) -> None:
        """Read both graphs.

        Args:
            reference: Bundle that determines the types of inputs and outputs.
            candidate: Bundle that contains a stage of the same name.
            name: Name of the stage.
            threads: Number of threads of ONNX Runtime; 0 takes every core.
        """
        self.stage: Stage = reference.manifest.stage(name)
        self._threads = threads
        self._bundles = (reference, candidate)
        self._sides: tuple[LayeredGraph, LayeredGraph] = (
            layered(reference.graph(reference.manifest.stage(name)).model()),
            layered(candidate.graph(candidate.manifest.stage(name)).model()),
        )

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that both bundles have, in the reference's order."""
        return common_layers(*self._sides)

    def load(self, from_reference: Collection[str]) -> Any:
        """Load a session of the stage that takes the named layers from the reference.

        Raises:
            CovisError: ONNX Runtime cannot load the mixture.
        """
        ort = import_onnxruntime()
        model = mix(*self._sides, from_reference)
        settings = session_settings(self._threads, find_library(ORT_LIBRARY))
        # ONNX Runtime takes one folder of weights, the reference's. The candidate's tensors are
        # passed as memory maps, which are read only where they are used.
        candidate_weights = self._mapped(model)
        settings.add_external_initializers(
            list(candidate_weights), list(candidate_weights.values())
        )
        with self._bundles[0].weights.by_name() as weights:
            settings.add_session_config_entry(WEIGHTS_FOLDER, f"{weights.parent}/")
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
        """Run a mixture on host arrays of any type and return all its outputs by name."""
        outputs = empty_outputs(self.stage, len(images), values)
        names = [tensor.name for tensor in self.stage.outputs]

        def run_chunk(size: int, inputs: dict[str, Array], part: dict[str, Array]) -> None:
            typed = {
                t.name: inputs[t.name].astype(numpy_dtype(t.dtype), copy=False)
                for t in self.stage.inputs
            }
            for name, result in zip(names, session.run(names, typed), strict=True):
                part[name][...] = result

        run_in_chunks(self.stage, images, values, outputs, run_chunk, length=chunk)
        for bundle in self._bundles:
            bundle.weights.check_bytes()  # they are mapped
        return outputs

    def _mapped(self, model: onnx.ModelProto) -> dict[str, Any]:
        """Map the candidate's external tensors into memory, by their names in the mixture."""
        ort = import_onnxruntime()
        weights: NDArray[np.uint8] = np.frombuffer(self._bundles[1].weights.map(), np.uint8)
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
