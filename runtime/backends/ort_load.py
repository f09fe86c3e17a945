"""Load graphs of verified bundles into ONNX Runtime, and tell whose fault a failure is."""

from __future__ import annotations

from typing import Any, Final

from covis.engines.bundle.verified import VerifiedGraph
from covis.engines.errors import CovisError, environment_error, first_line, user_error
from covis.engines.system.ort_settings import import_onnxruntime
from covis.runtime.backends.process import keep_in_children

# Folder of the weights of a graph that is given as bytes; ONNX Runtime maps them into memory.
WEIGHTS_FOLDER: Final = "session.model_external_initializers_file_folder_path"
# Errors of ONNX Runtime that are always about the graph itself.
_GRAPH_FAULTS: Final = ("InvalidGraph", "InvalidProtobuf", "InvalidArgument", "NoSuchFile")
_NODE_FAILED: Final = "Non-zero status code returned while running"
_DOCTOR: Final = "see `covis doctor`"
_EXPORT: Final = "export the bundle again with this version of covis"


def load_session(model: bytes, graph: VerifiedGraph, settings: Any, providers: list[Any]) -> Any:
    """Load a graph, whose weights are mapped from the verified files.

    Args:
        model: Bytes of the graph.
        graph: The graph's files.
        settings: Session options of ONNX Runtime; the folder of the weights is added.
        providers: Execution providers, in ONNX Runtime's form.

    Raises:
        CovisError: ONNX Runtime rejects the graph, or a file was changed since it was checked (exit
            code 2); the machine lacks something (3).
    """
    ort = import_onnxruntime()
    with graph.data_by_name() as folder:
        settings.add_session_config_entry(WEIGHTS_FOLDER, f"{folder}/")
        try:
            # Without enable_fallback=0, a failure is printed and tried again on the CPU.
            session = ort.InferenceSession(model, settings, providers=providers, enable_fallback=0)
        except Exception as error:
            what = f"ONNX Runtime {ort.__version__} cannot load it ({first_line(error)})"
            if lacks_thread(error):
                raise no_thread(error) from error
            if is_graph_fault(error, on_gpu=len(providers) > 1):
                raise user_error(what, where=graph.path, hint=_EXPORT) from error
            raise environment_error(what, where=graph.path, hint=_DOCTOR) from error
    keep_in_children(session)
    return session


def run_failure(error: Exception, stage: str, *, on_gpu: bool) -> CovisError:
    """Return the error for a stage that failed while it ran."""
    what, where = f"failed ({first_line(error)})", f"stage {stage}"
    if lacks_thread(error):
        return no_thread(error)
    if is_graph_fault(error, on_gpu=on_gpu):
        return user_error(what, where=where, hint=_EXPORT)
    return environment_error(what, where=where, hint=_DOCTOR)


def is_graph_fault(error: Exception, *, on_gpu: bool) -> bool:
    """Return whether ONNX Runtime blames the graph and not the machine.

    `Fail`, and errors of a kernel that refuses or fails at its node, may also come from the driver
    of a GPU.
    """
    kind, text = type(error).__name__, str(error)
    of_a_node = kind in ("Fail", "RuntimeException") or _NODE_FAILED in text
    if of_a_node:
        return not on_gpu and "alloc" not in text
    return kind in _GRAPH_FAULTS


def lacks_thread(error: Exception) -> bool:
    """Return whether the system refused to start another thread."""
    text = str(error)
    return "pthread_create failed" in text or "can't start new thread" in text


def no_thread(error: Exception) -> CovisError:
    """Return the error for a thread that the system refused to start."""
    return environment_error(
        f"the system starts no more threads ({first_line(error, 160)})",
        hint="end other programs, raise the limit of processes (ulimit -u), or lower --threads",
    )
