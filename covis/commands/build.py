"""`covis build`: TensorRT engines of a bundle, checked to compute as requested."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from covis.engines.tensorrt.build.options import BuildOptions

if TYPE_CHECKING:
    from covis.engines.tensorrt.plans.record import PlanRecord


def build(options: BuildOptions) -> None:
    """Build engines; lines for trtexec go to standard output, everything else to standard error."""
    from covis.engines.bundle.bundle import open_bundle
    from covis.engines.tensorrt.build.requests import (
        onnx_request,
        stage_requests,
        trtexec_command,
        write_parser_onnx,
    )

    bundle = open_bundle(options.bundle) if options.bundle is not None else None
    requests = stage_requests(bundle, options) if bundle is not None else (onnx_request(options),)
    if options.parser_onnx is not None:
        for one in requests:
            write_parser_onnx(one, options.parser_onnx)
    for one in requests:
        print(trtexec_command(one, options).line(), flush=True)
    if options.parser_onnx is None and any(one.uses_plugin for one in requests):
        _print("PARSER_ONNX is the folder that --parser-onnx FOLDER writes the graphs to")
    if not options.print_trtexec:
        _build(options)


def _build(options: BuildOptions) -> None:
    from covis.engines.tensorrt.build import stages
    from covis.engines.tensorrt.build.progress import SilentPhases, progress_bars

    bars = progress_bars() if sys.stderr.isatty() else contextlib.nullcontext(SilentPhases())
    with bars as phases:
        on_log = _log if options.verbose else _warn
        stages.build(options, on_progress=_print, on_plan=_print_plan, on_log=on_log, phases=phases)


def _print_plan(record: PlanRecord, folder: Path, built: bool) -> None:
    what = "built" if built else "there already"
    ranges = ", ".join(f"{name} {sizes}" for name, sizes in record.profile.items())
    _print(
        f"{record.stage}: {what}, {folder}/{record.file}, {record.size / 1e6:,.1f} MB, "
        f"{record.precision}, {ranges or 'fixed shapes'}, {record.activation_memory / 2**20:,.0f} "
        f"MiB of activations, {record.build_seconds:,.1f} s"
    )


def _print(text: str) -> None:
    from covis.engines.errors import printable

    print(printable(text), file=sys.stderr, flush=True)


def _log(severity: str, text: str) -> None:
    _print(f"[{severity}] {text}")


def _warn(severity: str, text: str) -> None:
    if severity in ("error", "warning"):
        _log(severity, text)
