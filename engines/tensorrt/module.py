"""Import TensorRT, check its version, load the plugin, and forward its log.

This is the only module that imports `tensorrt`. One source supports 10.6 to 11.x: members that
differ between them are looked up by name where they are used.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from covis.engines.bundle.bundle import sha256_of
from covis.engines.errors import CovisError, environment_error, printable, user_error
from covis.engines.system.floors import numbers
from covis.engines.system.native import PLUGIN_LIBRARY, find_kernels_of, find_library

OLDEST: Final = (10, 6)
NEWEST_MAJOR: Final = 11
_INSTALL = "pip install 'covis[trt]' (TensorRT 10.6 to 11.x, from NVIDIA)"

LogSink = Callable[[str, str], None]
"""Called with (severity, text) of each message: error, warning, info or verbose."""

_lock = threading.RLock()  # reentrant, because a failure to load reads the log
_loaded: dict[Path, str] = {}  # plugin library -> its digest when it was loaded


def import_tensorrt() -> ModuleType:
    """Import the `tensorrt` module.

    Raises:
        CovisError: it is not installed, cannot be loaded, or has a version that this release
            does not support (exit code 3).
    """
    try:
        module = importlib.import_module("tensorrt")
        found = numbers(str(module.__version__))
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            raise _unusable(error) from error
        raise environment_error("TensorRT is not installed", hint=_INSTALL) from None
    except Exception as error:  # a missing driver or library raises almost any class
        raise _unusable(error) from error
    if found[:2] < OLDEST or found[0] > NEWEST_MAJOR:
        raise environment_error(
            f"TensorRT {module.__version__} is installed, 10.6 to 11.x is needed", hint=_INSTALL
        )
    return module


def tensorrt_version() -> tuple[int, ...]:
    """Return TensorRT's version as numbers, e.g. (10, 15, 1, 29).

    Raises:
        CovisError: see `import_tensorrt`.
    """
    return numbers(str(import_tensorrt().__version__))


def plugin_digest(plugin: Path) -> str:
    """Return the sha256 of the plugin library and its kernels together.

    A plan contains the workspace size that the kernels required when it was built; other kernels
    may need more than TensorRT then allocates.
    """
    digests = [sha256_of(path) for path in (plugin, find_kernels_of(plugin)) if path is not None]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def load_plugin(path: Path | None = None, *, static: bool = False) -> Path:
    """Load the plugin's creators into TensorRT's registry, once a process.

    Args:
        path: Library to load; None searches the package and the checkout's build folder.
        static: Only dlopen it, as `trtexec --staticPlugins` does; it then registers itself.

    Returns:
        Path of the library that was loaded.

    Raises:
        CovisError: the library does not exist (exit code 2 if `path` names it, else 3), TensorRT
            cannot load it, or this process has already loaded another one.
    """
    trt = import_tensorrt()
    library = find_library(PLUGIN_LIBRARY, path)
    if library is None:
        raise missing_plugin(path)
    find_kernels_of(library)  # the plugin loads them, so they are checked first
    with _lock:
        if library in _loaded:
            return library
        if _loaded:
            raise user_error(
                f"another plugin library is loaded already ({next(iter(_loaded))})",
                where=library,
                hint="use one library a process",
            )
        before = len(trt.get_plugin_registry().all_creators)
        try:
            if static:
                done = ctypes.CDLL(str(library)) is not None
                done = done and len(trt.get_plugin_registry().all_creators) > before
            else:
                done = trt.get_plugin_registry().load_library(str(library)) is not None
        except OSError as error:
            raise _not_a_plugin(library, printable(str(error))) from error
        if not done:
            raise _not_a_plugin(library, logger().last_error())
        _loaded[library] = sha256_of(library)
    return library


def _not_a_plugin(library: Path, reason: str) -> CovisError:
    version = import_tensorrt().__version__
    detail = f" ({reason[:300]})" if reason else ""
    return environment_error(
        f"TensorRT {version} cannot load it as a plugin library{detail}",
        where=library,
        hint="build covis anew, with TENSORRT_ROOT of this TensorRT",
    )


def missing_plugin(path: Path | None) -> CovisError:
    """Return the error for a plugin library that does not exist."""
    if path is not None:
        return user_error("no such plugin library", where=path, hint="give libcovis_trt.so")
    return environment_error(
        f"the TensorRT plugin ({PLUGIN_LIBRARY}) was not built",
        hint="see docs/how-to/tensorrt.md, or give --dynamicPlugins",
    )


def logger(sink: LogSink | None = None) -> Any:
    """Return TensorRT's logger of this process, which forwards to `sink`.

    TensorRT accepts one logger for the whole process, so later calls only replace the sink; None
    keeps it. The logger also stores the latest warnings and errors.
    """
    with _lock:
        adapter = _make_logger()
    if sink is not None:
        adapter.sink = sink
    return adapter


@functools.cache
def _make_logger() -> Any:
    trt = import_tensorrt()
    names = {
        trt.ILogger.Severity.INTERNAL_ERROR: "error",
        trt.ILogger.Severity.ERROR: "error",
        trt.ILogger.Severity.WARNING: "warning",
        trt.ILogger.Severity.INFO: "info",
        trt.ILogger.Severity.VERBOSE: "verbose",
    }

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        """Forwards TensorRT's messages, and stores the latest hundred errors and warnings."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.sink: LogSink = lambda severity, text: None
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            name = names.get(severity, "info")
            latest = {"error": self.errors, "warning": self.warnings}.get(name)
            if latest is not None:
                latest.append(printable(text.strip()))
                del latest[:-100]
            self.sink(name, text)

        def last_error(self) -> str:
            """Return the first error since `forget`, which caused the later ones; "" if none."""
            return self.errors[0][:400] if self.errors else ""

        def forget(self) -> None:
            """Clear the stored messages before a new operation."""
            self.errors.clear()
            self.warnings.clear()

    return Logger()


def _unusable(error: Exception) -> CovisError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return environment_error(
        f"TensorRT is installed but cannot be loaded ({printable(lines[0])})",
        hint="check its libraries and the NVIDIA driver with `covis doctor`",
    )
