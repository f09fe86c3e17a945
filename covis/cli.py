"""The `covis` command: parse, dispatch, and turn failures into one line and an exit code."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import re
import sys
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from covis.commands import former
from covis.engines.errors import CovisError, ExitCode, printable, user_error
from covis.engines.system.signals import Terminated, termination_raised
from covis.engines.system.streams import discard_output, prepare_streams

_ABOUT = "Multi-view transformers through ONNX; global attention block-sparse by co-visibility."


class _Command(NamedTuple):
    """Places of a subcommand's parts, imported only when it is called: the overview is quick.

    Attributes:
        options: Options class, as `module:name`.
        function: Function that runs the command with these options, as `module:name`.
        summary: First line of the docstring of the options class.
    """

    options: str
    function: str
    summary: str


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
    "batch": _Command(
        "covis.commands.batch:BatchCommand",
        "covis.commands.batch:batch",
        "Reconstruct many scenes, each in a run of its own.",
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
        "Measure accuracy by threshold, sparse layers, selector, anchors, schedule and precision.",
    ),
    "tune": _Command(
        "covis.commands.tune:TuneCommand",
        "covis.commands.tune:tune",
        "Find the cheapest sparsity that keeps a scene's cameras and depth near the dense result.",
    ),
    "profile": _Command(
        "covis.commands.profile:ProfileCommand",
        "covis.commands.profile:profile",
        "Measure sparse attention layer by layer on photos, and propose a schedule of layers.",
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
    "convert-checkpoint": _Command(
        "covis.commands.convert_checkpoint:ConvertCommand",
        "covis.commands.convert_checkpoint:convert",
        "Convert your own pickled checkpoint to safetensors, in a limited process of its own.",
    ),
    "triton": _Command(
        "covis.commands.triton:TritonCommand",
        "covis.commands.triton:triton",
        "Write a model repository for Triton Inference Server.",
    ),
    "inspect": _Command(
        "covis.commands.inspect:InspectCommand",
        "covis.commands.inspect:inspect",
        "Check a bundle and show its contents.",
    ),
    "demo": _Command(
        "covis.commands.demo:DemoCommand",
        "covis.commands.demo:demo",
        "Render a scene and reconstruct it with dense, with sparse and without attention of views.",
    ),
    "doctor": _Command(
        "covis.commands.doctor:DoctorCommand",
        "covis.commands.doctor:doctor",
        "Report what this machine can run, and what is missing for the rest.",
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave through `sys.exit`: the entry point of the console script."""
    prepare_streams()
    with termination_raised():
        sys.exit(run_command(sys.argv[1:] if arguments is None else list(arguments)))


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    A `CovisError` becomes one line on standard error, and so does an error of the operating system
    that nothing more specific has caught. Any other exception is a fault of covis and keeps its
    traceback.
    """
    try:
        _dispatch(arguments)
        sys.stdout.flush()
    except CovisError as error:
        return _fail(str(error), error.code)
    except Terminated as end:
        line = f"ended by {end}; nothing was left half-written"
        return _fail(line, ExitCode(128 + end.number))
    except KeyboardInterrupt:
        # OpenBLAS sends this process SIGINT where it cannot start its threads.
        if not _can_start_a_thread():
            return _fail(_NO_THREADS, ExitCode.ENVIRONMENT)
        return _fail("interrupted; nothing was left half-written", ExitCode.INTERRUPTED)
    except MemoryError:
        return _fail("out of memory; use fewer views or a smaller --chunk", ExitCode.ENVIRONMENT)
    except OSError as error:
        if error.errno == errno.EAGAIN and not _can_start_a_thread():  # of fork
            return _fail(_NO_THREADS, ExitCode.ENVIRONMENT)
        discard_output()
        where = f"{error.filename}: " if error.filename else ""
        line = f"{where}{error.strerror or error}; check free space and rights"
        return _fail(line, ExitCode.ENVIRONMENT)
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        return _fail(_NO_THREADS, ExitCode.ENVIRONMENT)
    return 0


_NO_THREADS = (
    "no more threads or processes can be started here; raise the limit (`ulimit -u`, or the "
    "container's limit of pids) or end other programs"
)


def _can_start_a_thread() -> bool:
    try:
        threading.Thread(target=int).start()
    except RuntimeError:
        return False
    return True


def _dispatch(arguments: Sequence[str]) -> None:
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_overview())
    elif name == "--version":
        import covis

        print(f"covis {covis.__version__}")
    elif name in COMMANDS:
        _run(name, arguments[1:])
    elif name in former.COMMANDS:
        present = former.COMMANDS[name]
        _notice(f"`covis {name}` is now `covis {present}`")
        _run(present, arguments[1:])
    else:
        raise user_error("no such command", where=name, hint=f"use one of {', '.join(COMMANDS)}")


def _run(name: str, arguments: Sequence[str]) -> None:
    words, notices = former.renew(name, arguments)
    for notice in notices:
        _notice(notice)
    command = COMMANDS[name]
    options = _parse(_find(command.options), f"covis {name}", words)
    if options is not None:
        _find(command.function)(options)


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
    """Return the options in `arguments`, or None where they ask for help, which is then printed.

    tyro draws its errors as a box on standard error and has no public way to get the text alone:
    `console_outputs=False` discards it, and the hook `tyro._errors.on_parse_error` is private,
    unstable by its own documentation, and hands over events without a text. So the box is read.

    Raises:
        CovisError: The arguments are wrong; the parser's message, on one line.
    """
    import tyro

    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            # `None` is no value to type: leaving an option out says the same.
            return tyro.cli(
                options, prog=program, args=list(arguments), config=(tyro.conf.DisallowNone,)
            )
    except SystemExit as leave:
        if leave.code in (0, None):
            return None
    raise user_error(_unboxed(box.getvalue()), hint=f"see `{program} --help`")


_RULE = re.compile(r"[│|\s]*[─-]{3,}[│|\s]*")


def _unboxed(text: str) -> str:
    """Return the message in a box, from its title to its first separator, on one line.

    Where the terminal has no characters to draw with, the title is a line above a separator.
    A text in another style is returned whole.
    """
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if _RULE.fullmatch(line):
            blocks.append([])
        elif not line.startswith(("╭", "╰")):
            blocks[-1].append(line.strip("│| "))
    messages = [words for block in blocks if (words := " ".join(" ".join(block).split()))]
    if "╭" not in text:
        messages = messages[1:] or messages
    return messages[0].rstrip(".") if messages else "the arguments are not understood"


def _notice(line: str) -> None:
    """Print that a former spelling was used, which the next version rejects."""
    with contextlib.suppress(OSError):
        text = f"covis: {printable(line)}; the former spelling ends with the next version"
        print(text, file=sys.stderr)


def _fail(line: str, code: ExitCode) -> int:
    with contextlib.suppress(OSError):  # the exit code remains where this cannot be written
        print(f"covis: {printable(line)}", file=sys.stderr)
    return int(code)


if __name__ == "__main__":
    main()
