"""The `covis` command: parses, dispatches, and turns failures into one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from covis.engines.errors import CovisError, ExitCode, printable

_ABOUT = "Multi-view transformers through ONNX; global attention block-sparse by co-visibility."


def _commands() -> dict[str, tuple[type[Any], Callable[[Any], None]]]:
    from covis.commands.doctor import DoctorCommand, doctor
    from covis.commands.export import export
    from covis.commands.inspect import InspectCommand, inspect
    from covis.commands.run import RunCommand, run
    from covis.export.options import ExportOptions

    return {
        "export": (ExportOptions, export),
        "run": (RunCommand, run),
        "inspect": (InspectCommand, inspect),
        "doctor": (DoctorCommand, doctor),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script; leaves through `sys.exit`."""
    sys.exit(run_command(sys.argv[1:] if arguments is None else list(arguments)))


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    A `CovisError` becomes one line on standard error. Any other exception is a fault of ours and
    keeps its traceback.
    """
    try:
        _dispatch(arguments)
    except CovisError as error:
        return _fail(str(error), error.code)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was left half-written", ExitCode.INTERRUPTED)
    except MemoryError:
        return _fail("out of memory; use fewer views or a smaller --chunk", ExitCode.ENVIRONMENT)
    except BrokenPipeError:
        # The reader of our output left (`covis inspect | head`); nobody is there to be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


def _dispatch(arguments: Sequence[str]) -> None:
    import tyro

    commands = _commands()
    if arguments and arguments[0] in commands:
        options, function = commands[arguments[0]]
        program = f"covis {arguments[0]}"
        parsed = tyro.cli(options, prog=program, args=arguments[1:])
        function(parsed)
        return
    # Only for the overview and for unknown commands: it names them all.
    tyro.extras.subcommand_cli_from_dict(
        {name: _described(options) for name, (options, _) in commands.items()},
        prog="covis",
        description=_ABOUT,
        args=list(arguments) or ["--help"],
    )


def _described(options: type[Any]) -> Callable[[], None]:
    def command() -> None: ...

    command.__doc__ = (options.__doc__ or "").splitlines()[0]
    return command


def _fail(line: str, code: ExitCode) -> int:
    print(f"covis: {printable(line)}", file=sys.stderr)
    return int(code)


if __name__ == "__main__":
    main()
