"""The kernels' sitting at a GPU: checks, benchmark with peers, compute-sanitizer; one command.

    python tests/gpu/kernels_day.py --out DIR

Needs torch, numpy and the built library, and ends by itself. DIR/kernels.json has the machine and
how every part ended, DIR/attention.json the benchmark, DIR/kernels.log what was printed; each is
written as it comes. What is not installed here is told as absent. Exit code 0: all that is here
passed; 1: something failed, was stopped or not run; 3: no GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.gpu.sanitizer import sanitize  # noqa: E402
from tests.gpu.sitting import Ended, Part, Sitting, end_with_signal, seconds_of  # noqa: E402
from tests.gpu.units import Series, series  # noqa: E402

PYTHON = (sys.executable,)
# By part; 0 leaves a part out. `each` is one check's, `start` that of a process to begin with its
# first, `peer` that of a peer, most of which compile at first use.
SECONDS = {
    "all": 480.0, "checks": 120.0, "each": 40.0, "start": 60.0,
    "benchmark": 240.0, "peer": 90.0, "memcheck": 60.0, "racecheck": 0.0,
}  # fmt: skip


def probe(sitting: Sitting, library: Path) -> list[str] | None:
    """Put on record what torch says of the device; the names of its checks, None without one."""
    command = [*PYTHON, "-m", "tests.gpu.kernel_units", "--library", str(library)]
    ended = sitting.process("probe", [*command, "--probe"], SECONDS["start"], {})
    try:
        found: dict[str, Any] = json.loads(ended.output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        found = {"cuda_device": None, "reason": ended.output[-1000:] or f"no answer: {ended.code}"}
    names: list[str] | None = found.pop("checks", None)
    sitting.record |= found
    sitting.write()
    return names


def run(sitting: Sitting, names: list[str], options: argparse.Namespace) -> None:
    """All parts, in the order of their worth."""
    library, limits = str(options.library), options.limits
    if limits["checks"]:
        command = [*PYTHON, "-m", "tests.gpu.kernel_units", "--library", library]
        series(
            sitting,
            Series("checks", command, names, limits["checks"], limits["each"], limits["start"]),
        )
    if limits["benchmark"]:
        sitting.run(benchmark_part(sitting, options), lambda e: benchmark_detail(sitting, e))
    if limits["memcheck"]:
        sanitize(sitting, "memcheck", options.library, limits["memcheck"])
    if limits["racecheck"]:
        sanitize(sitting, "racecheck", options.library, limits["racecheck"])


def benchmark_part(sitting: Sitting, options: argparse.Namespace) -> Part:
    """benchmarks/attention_gpu.py, which stops by itself a little before its limit."""
    limits = options.limits
    seconds = min(limits["benchmark"], sitting.left())
    command = [
        *PYTHON, str(ROOT / "benchmarks" / "attention_gpu.py"),
        "--out", str(sitting.out / "attention.json"), "--library", str(options.library),
        "--seconds", str(max(seconds - 10, 1)), "--peer-seconds", str(limits["peer"]),
        "--frames", *map(str, options.frames), "--peer-frames", str(options.peer_frames),
    ]  # fmt: skip
    if hung := hung_kernels(sitting):
        command += ["--left-out", *hung]
    return Part("benchmark", command, seconds)


def hung_kernels(sitting: Sitting) -> list[str]:
    """The kernels of which a check was stopped: the benchmark would hang in them as well."""
    checks = [part for part in sitting.record["parts"] if part["part"].startswith("checks/")]
    stopped = [part["part"].partition(" ")[2] for part in checks if part["status"] == "stopped"]
    return sorted({name for name in stopped if name})


def benchmark_detail(sitting: Sitting, ended: Ended) -> dict[str, Any]:
    """What the benchmark's own file says in short: tables, targets, and which peers are absent."""
    path = sitting.out / "attention.json"
    result = json.loads(path.read_text()) if path.is_file() else {}
    peers = result.get("peers", {}).get("of", {})
    return {
        "file": path.name if result else None,
        "tables": [f"{t['frames']} frames, D = {t['head_dim']}" for t in result.get("tables", [])],
        "peers": {name: p.get("ms", p.get("absent")) for name, p in peers.items()},
        "targets": {row["target"]: row["value"] for row in result.get("summary", [])},
        "left_out": result.get("left_out", []),
        "code": ended.code,
        "tail": ended.output[-1500:],
    }


def arguments(given: list[str] | None) -> argparse.Namespace:
    """The command line; a mistake in it is told in one line and ends in exit code 2."""
    from covis.engines.system.native import KERNELS_LIBRARY

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--library", type=Path, default=ROOT / "build" / "cuda" / KERNELS_LIBRARY)
    parser.add_argument(
        "--seconds", nargs="+", default=[], metavar="[PART=]N",
        help=f"limits, by part or of all; 0 leaves a part out\n{SECONDS}",
    )  # fmt: skip
    parser.add_argument("--frames", type=int, nargs="+", default=[100, 20, 200, 500])
    parser.add_argument("--peer-frames", type=int, default=100)
    options = parser.parse_args(given)
    try:
        options.limits = seconds_of(options.seconds, SECONDS)
    except ValueError as error:
        parser.exit(2, f"--seconds: {error}\n")
    if not options.library.is_file():
        parser.exit(2, f"{options.library}: no such library; build it with `make plugins`\n")
    if min(*options.frames, options.peer_frames) < 1:
        parser.exit(2, "--frames: use 1 or more\n")
    options.library = options.library.resolve()
    return options


def main(given: list[str] | None = None) -> int:
    """Run the sitting."""
    options = arguments(given)
    end_with_signal()
    sitting = Sitting(options.out, "kernels", options.limits["all"])
    names = probe(sitting, options.library)
    if names is None:
        print("no CUDA device, or no kernels for it: nothing was checked; see kernels.json")
        return 3
    run(sitting, names, options)
    print(sitting.summary())
    return 1 if sitting.failed else 0


if __name__ == "__main__":
    sys.exit(main())
