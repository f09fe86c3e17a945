"""The one place that imports TensorRT, checks its version, and loads the plugin into it.

One source serves 10.6 to 11.x: what differs between them is looked up by name where it is used.
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

Tell = Callable[[str, str], None]
"""(severity, text): severity is one of error, warning, info, verbose."""

_lock = threading.RLock()  # failing to load asks the logger why
_loaded: dict[Path, str] = {}  # the plugin library, and its digest when it was loaded


def import_tensorrt() -> ModuleType:
    """The `tensorrt` module.

    Raises:
        CovisError: it is not installed, cannot be loaded, or is of a version that this release
            was not written for (exit code 3).
    """
    try:
        module = importlib.import_module("tensorrt")
        found = numbers(str(module.__version__))
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            raise _unusable(error) from error
        raise environment_error("TensorRT is not installed", hint=_INSTALL) from None
    except Exception as error:  # a missing driver or library shows as almost any error
        raise _unusable(error) from error
    if found[:2] < OLDEST or found[0] > NEWEST_MAJOR:
        raise environment_error(
            f"TensorRT {module.__version__} is installed, 10.6 to 11.x is needed", hint=_INSTALL
        )
    return module


def tensorrt_version() -> tuple[int, ...]:
    """The version as numbers, e.g. (10, 15, 1, 29).

    Raises:
        CovisError: as `import_tensorrt`.
    """
    return numbers(str(import_tensorrt().__version__))


def plugin_digest(plugin: Path) -> str:
    """sha256 of the plugin library and its kernels together.

    A plan holds the workspace that the kernels asked for when it was built; other kernels may want
    more than TensorRT then gives them.
    """
    digests = [sha256_of(path) for path in (plugin, find_kernels_of(plugin)) if path is not None]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def load_plugin(path: Path | None = None, *, static: bool = False) -> Path:
    """Load the plugin's creators into TensorRT's registry, once a process.

    Args:
        path: the library; None looks in the package and in the checkout's build folder.
        static: only dlopen it, as `trtexec --staticPlugins` does; it then registers itself.

    Returns:
        The library that was loaded.

    Raises:
        CovisError: there is none (2 where `path` was given, else 3); TensorRT cannot load it; or
            another one was loaded into this process before.
    """
    trt = import_tensorrt()
    library = find_library(PLUGIN_LIBRARY, path)
    if library is None:
        raise missing_plugin(path)
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
    told = f" ({reason[:300]})" if reason else ""
    return environment_error(
        f"TensorRT {version} cannot load it as a plugin library{told}",
        where=library,
        hint="build covis anew, with TENSORRT_ROOT of this TensorRT",
    )


def missing_plugin(path: Path | None) -> CovisError:
    """The error for a plugin library that is not there."""
    if path is not None:
        return user_error("no such plugin library", where=path, hint="give libcovis_trt.so")
    return environment_error(
        f"the TensorRT plugin ({PLUGIN_LIBRARY}) was not built",
        hint="see docs/how-to/tensorrt.md, or give --dynamicPlugins",
    )


def logger(tell: Tell | None = None) -> Any:
    """TensorRT's logger of this process, telling `tell`; warnings and errors are also kept.

    TensorRT takes one logger for the whole process: later calls change only whom it tells.
    """
    with _lock:
        adapter = _make_logger()
    if tell is not None:
        adapter.tell = tell
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
        """Hands TensorRT's lines on; `errors` and `warnings` keep the latest hundred of each."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.tell: Tell = lambda severity, text: None
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            name = names.get(severity, "info")
            kept = {"error": self.errors, "warning": self.warnings}.get(name)
            if kept is not None:
                kept.append(printable(text.strip()))
                del kept[:-100]
            self.tell(name, text)

        def last_error(self) -> str:
            """The first error since `forget`: later ones follow from it. Empty where none."""
            return self.errors[0][:400] if self.errors else ""

        def forget(self) -> None:
            """Start a new operation."""
            self.errors.clear()
            self.warnings.clear()

    return Logger()


def _unusable(error: Exception) -> CovisError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return environment_error(
        f"TensorRT is installed but cannot be loaded ({printable(lines[0])})",
        hint="check its libraries and the NVIDIA driver with `covis doctor`",
    )
