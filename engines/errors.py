"""The one error type of the project and the exit codes it maps to."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """What a failed `covis` command returns to the shell."""

    USER = 2  # an input, an option or a file is wrong: the user can mend it
    ENVIRONMENT = 3  # this machine lacks something: a library, a device, space, rights
    NUMERICS = 4  # NaN, overflow, or results outside their tolerance
    INTERRUPTED = 130  # Ctrl-C, the shell's own convention


class CovisError(Exception):
    """A failure told in one line: what is wrong, where, and what mends it.

    Args:
        code: whose fault it is; becomes the exit code of the command.
        what: the fault itself, without the name of the thing.
        where: the file, option, tensor or layer at fault.
        hint: the cure, as an instruction.
    """

    def __init__(
        self, code: ExitCode, what: str, *, where: str | Path = "", hint: str = ""
    ) -> None:
        self.code = code
        self.what = what
        self.where = printable(where)
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        return f"{line}; {self.hint}" if self.hint else line

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions pickle by their positional arguments; ours are keyword-only.
        return (_rebuild, (self.code, self.what, self.where, self.hint))


def _rebuild(code: ExitCode, what: str, where: str, hint: str) -> CovisError:
    return CovisError(code, what, where=where, hint=hint)


def user_error(what: str, *, where: str | Path = "", hint: str = "") -> CovisError:
    """A mistake that the user can mend (exit code 2)."""
    return CovisError(ExitCode.USER, what, where=where, hint=hint)


def environment_error(what: str, *, where: str | Path = "", hint: str = "") -> CovisError:
    """Something this machine lacks (exit code 3)."""
    return CovisError(ExitCode.ENVIRONMENT, what, where=where, hint=hint)


def numerics_error(what: str, *, where: str | Path = "", hint: str = "") -> CovisError:
    """Non-finite or out-of-tolerance numbers (exit code 4)."""
    return CovisError(ExitCode.NUMERICS, what, where=where, hint=hint)


def printable(name: str | Path) -> str:
    """A file name as one safe line: control characters (newlines, escapes) are shown, not sent."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))
