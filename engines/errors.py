"""The error type of the project and the exit codes of its commands."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import Any, Self, TypeVar

from covis.engines.limits import ERROR_LINE


class ExitCode(IntEnum):
    """Exit code of a failed `covis` command.

    A signal that ends the command gives 128 and its number, by the shell's convention. Each of them
    has the same effect: what is half-written is removed first.
    """

    USER = 2  # an input, an option or a file is wrong, and the user can correct it
    ENVIRONMENT = 3  # this machine lacks something: a library, a device, space, rights
    NUMERICS = 4  # NaN, overflow, or results outside their tolerance
    HUNG_UP = 129  # SIGHUP: the terminal was closed
    INTERRUPTED = 130  # SIGINT: Ctrl-C
    TERMINATED = 143  # SIGTERM: from `kill`, `timeout`, a batch system or a container's end


class CovisError(Exception):
    """A failure described in one line: what is wrong, where, and how to correct it.

    Code that reacts to a failure tests the class or the `code`, never the text.

    Args:
        code: Exit code of the command.
        what: The fault itself, without the name of the thing.
        where: File, option, tensor or layer at fault.
        hint: Instruction that corrects the fault.
    """

    def __init__(
        self, code: ExitCode, what: str, *, where: str | Path = "", hint: str = ""
    ) -> None:
        self.code = code
        self.what = _shortened(what)
        self.where = _shortened(printable(where))
        self.hint = _shortened(hint)
        super().__init__(str(self))

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        return f"{line}; {self.hint}" if self.hint else line

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions pickle by their positional arguments; ours are keyword-only.
        return (_rebuild, (type(self), dict(vars(self))))

    def replaced(self, *, where: str | Path | None = None, hint: str | None = None) -> Self:
        """Copy the error, with its class, to another place or with another hint."""
        fields = dict(vars(self))
        if where is not None:
            fields["where"] = printable(where)
        if hint is not None:
            fields["hint"] = hint
        return _rebuild(type(self), fields)


class GpuOutOfMemoryError(CovisError):
    """The GPU has no room for an allocation (exit code 3).

    Args:
        needs: What does not fit, as a noun phrase in the plural: "the buffers of stage encoder".
        free: Bytes that are free; None where nobody asked.
        hint: Instruction that makes it fit.
        views: Number of views that would fit; None where it is not known.
    """

    def __init__(
        self,
        needs: str,
        *,
        free: int | None = None,
        hint: str = "use fewer views",
        views: int | None = None,
    ) -> None:
        left = "" if free is None else f" ({free / 2**30:.1f} GiB are free)"
        self.views = views
        what = f"the GPU is out of memory: {needs} do not fit{left}"
        super().__init__(ExitCode.ENVIRONMENT, what, hint=hint)


_Error = TypeVar("_Error", bound=CovisError)


def _rebuild(kind: type[_Error], fields: dict[str, Any]) -> _Error:
    error = kind.__new__(kind)
    vars(error).update(fields)
    error.args = (str(error),)
    return error


def user_error(what: str, *, where: str | Path = "", hint: str = "") -> CovisError:
    """A mistake that the user can correct (exit code 2)."""
    return CovisError(ExitCode.USER, what, where=where, hint=hint)


def environment_error(what: str, *, where: str | Path = "", hint: str = "") -> CovisError:
    """Something this machine lacks (exit code 3)."""
    return CovisError(ExitCode.ENVIRONMENT, what, where=where, hint=hint)


def numerics_error(what: str, *, where: str | Path = "", hint: str = "") -> CovisError:
    """Non-finite or out-of-tolerance numbers (exit code 4)."""
    return CovisError(ExitCode.NUMERICS, what, where=where, hint=hint)


def first_line(error: BaseException, most: int = 400) -> str:
    """Return the first line of an exception's text, safe to print; its class if it has no text."""
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0][:most])


def _shortened(text: str) -> str:
    """Leave out the middle of a text that quotes a value of any length."""
    half = ERROR_LINE.most // 2
    return text if len(text) <= ERROR_LINE.most else f"{text[:half]} ... {text[-half:]}"


def printable(name: str | Path) -> str:
    """Return a name as one safe line: control characters (newlines, escapes) are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))
