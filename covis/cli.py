"""The `covis` command: parses, dispatches, and turns failures into one line and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from covis.engines.errors import CovisError, ExitCode, printable, user_error

_ABOUT = "Multi-view transformers through ONNX; global attention block-sparse by co-visibility."


class _Command(NamedTuple):
    """Where a subcommand lives; imported only when it is called, so that the overview is quick."""

    options: str
    function: str
    summary: str  # the first line of the options' docstring


COMMANDS = {
    "export": _Command(
        "covis.export.options:ExportOptions",
        "covis.commands.export:export",
        "Turn a checkpoint into a bundle of ONNX graphs.",
    ),
    "run": _Command(
        "covis.commands.run:RunCommand",
        "covis.commands.run:run",
        "Reconstruct a folder of photos.",
    ),
    "eval": _Command(
        "covis.commands.eval:EvalCommand",
        "covis.commands.eval:evaluate",
        "Measure accuracy on a dataset: cameras, depth and points.",
    ),
    "compare": _Command(
        "covis.commands.compare:CompareCommand",
        "covis.commands.compare:compare",
        "Compare a bundle's backends, precisions or selectors on photos, stage by stage.",
    ),
    "build": _Command(
        "covis.engines.tensorrt.build.options:BuildOptions",
        "covis.commands.build:build",
        "Build TensorRT engines: one plan for each stage of a bundle, or for one ONNX file.",
    ),
    "sweep": _Command(
        "covis.commands.sweep:SweepCommand",
        "covis.commands.sweep:sweep",
        "Measure accuracy by threshold, sparse layers, selector and precision.",
    ),
    "tune": _Command(
        "covis.commands.tune:TuneCommand",
        "covis.commands.tune:tune",
        "Find the cheapest sparsity that keeps a scene's cameras and depth near the dense result.",
    ),
    "bench": _Command(
        "covis.commands.bench:BenchCommand",
        "covis.commands.bench:bench",
        "Measure latency, throughput and memory by stage, dense beside sparse.",
    ),
    "estimate": _Command(
        "covis.commands.estimate:EstimateCommand",
        "covis.commands.estimate:estimate",
        "Estimate the memory of a run, and name what limits the number of views.",
    ),
    "triton": _Command(
        "covis.commands.triton:TritonCommand",
        "covis.commands.triton:triton",
        "Write a model repository for Triton Inference Server.",
    ),
    "inspect": _Command(
        "covis.commands.inspect:InspectCommand",
        "covis.commands.inspect:inspect",
        "Check a bundle and show what it holds.",
    ),
    "demo": _Command(
        "covis.commands.demo:DemoCommand",
        "covis.commands.demo:demo",
        "Render a small scene and run the bundle that ships with covis on its photos.",
    ),
    "doctor": _Command(
        "covis.commands.doctor:DoctorCommand",
        "covis.commands.doctor:doctor",
        "Say what this machine can run, and what the rest would need.",
    ),
}

ALIASES = {"plan": "estimate"}
"""Former names of commands, accepted for one version: a TensorRT engine is called a plan, too."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script; leaves through `sys.exit`."""
    _prepare_streams()
    sys.exit(run_command(sys.argv[1:] if arguments is None else list(arguments)))


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    A `CovisError` becomes one line on standard error, and so does an error of the operating system
    that nothing more specific has caught. Any other exception is a fault of ours and keeps its
    traceback.
    """
    try:
        _dispatch(arguments)
        sys.stdout.flush()
    except CovisError as error:
        return _fail(str(error), error.code)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was left half-written", ExitCode.INTERRUPTED)
    except MemoryError:
        return _fail("out of memory; use fewer views or a smaller --chunk", ExitCode.ENVIRONMENT)
    except (BrokenPipeError, SystemExit):
        # The reader of our output left (`covis inspect | head`), and nobody is there to be told;
        # rich leaves the program for that reason.
        _discard_output()
    except OSError as error:
        _discard_output()  # it may be what cannot be written, and Python would try again at exit
        where = f"{error.filename}: " if error.filename else ""
        line = f"{where}{error.strerror or error}; check free space and rights"
        return _fail(line, ExitCode.ENVIRONMENT)
    return 0


def _dispatch(arguments: Sequence[str]) -> None:
    name = arguments[0] if arguments else "--help"
    if name in ALIASES:
        _notice(
            f"`covis {name}` is now `covis {ALIASES[name]}`, and the next version drops the old name"
        )
        name = ALIASES[name]
    if name in ("-h", "--help"):
        print(_overview())
    elif name == "--version":
        import covis

        print(f"covis {covis.__version__}")
    elif name in COMMANDS:
        command = COMMANDS[name]
        options = _parse(_find(command.options), f"covis {name}", arguments[1:])
        if options is not None:
            _find(command.function)(options)
    else:
        raise user_error("no such command", where=name, hint=f"use one of {', '.join(COMMANDS)}")


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    usage = f"usage: covis [-h] [--version] {{{','.join(COMMANDS)}}} ..."
    more = "`covis COMMAND --help` shows the options of a command."
    return "\n".join([usage, "", _ABOUT, "", *lines, "", more])


def _find(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _parse(options: type[Any], program: str, arguments: Sequence[str]) -> Any | None:
    """The options that `arguments` say, or None where they asked for help and got it.

    Raises:
        CovisError: with the parser's own words, which it draws as a box, on one line.
    """
    import tyro

    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(options, prog=program, args=list(arguments))
    except SystemExit as leave:
        if leave.code in (0, None):
            return None
    raise user_error(_unboxed(told.getvalue()), hint=f"see `{program} --help`")


def _unboxed(text: str) -> str:
    """The message in a box drawn with lines: from its title up to its first separator."""
    inner = [line.strip("│ ") for line in text.splitlines() if line.startswith("│")]
    end = next((i for i, line in enumerate(inner) if line.startswith("──")), len(inner))
    words = " ".join(" ".join(inner[:end]).split()) or " ".join(text.split())
    return words.rstrip(".") or "the arguments are not understood"


def _prepare_streams() -> None:
    """Standard streams that take whatever is written to them.

    A closed one (`>&-`) goes to the null device: the next file opened would get its number, and
    hold what libraries print. What an encoding lacks is written as an escape, not raised.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _notice(line: str) -> None:
    with contextlib.suppress(OSError):
        print(f"covis: {line}", file=sys.stderr)


def _fail(line: str, code: ExitCode) -> int:
    with contextlib.suppress(OSError):  # where nobody can be told, the code still says it
        print(f"covis: {printable(line)}", file=sys.stderr)
    return int(code)


if __name__ == "__main__":
    main()
