"""One stage of a bundle in ONNX Runtime: inputs and outputs bound to buffers of the caller."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import CovisError, environment_error, user_error
from covis.engines.manifest import Stage
from covis.runtime.native import find_library

Array = NDArray[Any]


@dataclass(frozen=True)
class SessionOptions:
    """How a session runs.

    Attributes:
        threads: of one session; 0 lets ONNX Runtime take every core.
        kernel: use the project's CPU kernel for the ops where it was built; without it the
            function bodies in the graphs compute the same, slower and in more memory.
    """

    threads: int = 0
    kernel: bool = True


class Session:
    """A loaded stage. Calls may come from one thread at a time."""

    def __init__(self, graph: Path, stage: Stage, options: SessionOptions) -> None:
        """Load a graph of an opened (checked) bundle.

        Raises:
            CovisError: ONNX Runtime refuses the graph.
        """
        import onnxruntime as ort

        self.stage = stage
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.log_severity_level = 3
        # Pre-packed weights are a second copy of the memory-mapped file; at the row counts of
        # these models packing inside each product costs nothing one can measure.
        settings.add_session_config_entry("session.disable_prepacking", "1")
        # The arena keeps the largest ever needed; stages take turns, so give memory back.
        settings.enable_cpu_mem_arena = False
        library = find_library() if options.kernel else None
        if library is not None:
            settings.register_custom_ops_library(str(library))
        self._runner = ThreadPoolExecutor(1, "covis-session")
        try:
            self._session = ort.InferenceSession(
                str(graph), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise environment_error(
                f"ONNX Runtime {ort.__version__} cannot load it ({_first_line(error)})",
                where=graph,
                hint="see `covis doctor`",
            ) from error

    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Read `inputs`, write into `outputs`; C-contiguous, typed and shaped as the stage says.

        Raises:
            CovisError: out of memory (exit code 3), or a failure inside the graph.
        """
        import onnxruntime as ort

        binding = self._session.io_binding()
        for tensor in self.stage.inputs:
            value = np.ascontiguousarray(inputs[tensor.name])
            binding.bind_ortvalue_input(tensor.name, ort.OrtValue.ortvalue_from_numpy(value))
        for tensor in self.stage.outputs:
            buffer = outputs[tensor.name]
            if not buffer.flags.c_contiguous:
                raise user_error("its buffer is not contiguous", where=tensor.name)
            binding.bind_output(
                tensor.name, "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data
            )
        # In a thread of its own, so that Ctrl-C is heard: ONNX Runtime then stops at the next node.
        control = ort.RunOptions()
        running = self._runner.submit(self._session.run_with_iobinding, binding, control)
        try:
            running.result()
        except Exception as error:
            raise self._failure(error) from error
        except BaseException:
            control.terminate = True
            running.exception()
            raise

    def _failure(self, error: Exception) -> CovisError:
        line = _first_line(error)
        if "bad_alloc" in line or "Failed to allocate" in line or "BFCArena" in line:
            return environment_error(
                f"out of memory ({line})", where=f"stage {self.stage.name}", hint="use fewer views"
            )
        return environment_error(f"failed ({line})", where=f"stage {self.stage.name}")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:400] if str(error).strip() else type(error).__name__
