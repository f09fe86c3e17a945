"""The engines' sitting at a GPU: builder, proof, checks, VGGT-1B's size; one command.

    python tests/gpu/engines_day.py --out DIR --bundles DIR --plugin LIBRARY --seconds 540

Bundles are made beforehand by `prepare.py bundles`: DIR/wide, DIR/half and, for the full size,
DIR/full without its weights, which are made here. Needs TensorRT, cuda-python and what
tests/gpu/wheels.txt lists. Each stage is built in a process of its own. Its layer information is
kept in any case; where the proof refuses an engine, the stage is built again without the proof, so
that the checks still run. DIR/engines.json says how every part ended, layers.zip what the inspector
told, vggt.json the full size's times, engines.log what was printed. Exit code 0: all that is here
passed; 1: something failed, was stopped or not run; 3: no GPU or no TensorRT.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.gpu.engine_checks import CHECKS, STRIPPED  # noqa: E402
from tests.gpu.sitting import Ended, Part, Sitting, end_with_signal, seconds_of  # noqa: E402
from tests.gpu.units import Series, series  # noqa: E402

PYTHON = (sys.executable,)
# By part; 0 leaves a part out. `each` is one check's, `start` that of a process to begin with its
# first.
SECONDS = {
    "all": 540.0, "build": 100.0, "checks": 200.0, "each": 60.0, "start": 60.0,
    "weights": 90.0, "full_build": 240.0, "full_run": 240.0,
}  # fmt: skip
# Of the tiny bundle: one stage alone, which says soonest what is wrong; then side by side.
FIRST = ("aggregator",)
OTHERS = ("aggregator_pooled", "encoder", "saliency", "camera", "depth", "points")
FULL = ("aggregator", "encoder", "saliency", "camera", "depth", "points")
UNPROVEN = ("--profilingVerbosity", "layer_names_only")


class Day:
    """The sitting, its scratch folder, and which stages the proof refused."""

    def __init__(self, sitting: Sitting, work: Path, options: argparse.Namespace) -> None:
        self.sitting, self.work, self.options = sitting, work, options
        self.limits: dict[str, float] = options.limits
        self.unproven: set[str] = set(options.unproven)
        # Plans of this sitting are this sitting's own: the user's list is left alone.
        self.environment = {"XDG_STATE_HOME": str(work / "state")}
        (work / "layers").mkdir()

    def build(
        self, name: str, bundle: str, stages: Sequence[str], seconds: float, *more: str
    ) -> None:
        """Build stages side by side, each in a process; again without the proof where it refuses.

        Args:
            name: of the parts: `NAME STAGE`.
            bundle: its folder in the scratch folder.
            stages: to build.
            seconds: of one stage.
            more: further words for `covis build`.
        """
        parts = {stage: self.build_part(name, bundle, stage, seconds, *more) for stage in stages}
        ended = self.sitting.run_together(list(parts.values()))
        again = [stage for stage, part in parts.items() if refused(ended[part.name])]
        self.keep_layers()
        if again:
            self.unproven |= set(again)
            self.sitting.run_together(
                [self.build_part(f"{name} unproven", bundle, s, seconds, *more) for s in again]
            )
            self.keep_layers()

    def build_part(self, name: str, bundle: str, stage: str, seconds: float, *more: str) -> Part:
        """`covis build` of one stage; without the proof once that has refused such a stage."""
        label = f"{name} {stage}"
        words = [
            *PYTHON, "-m", "covis", "build", str(self.work / bundle), "--stages", stage,
            "--dynamicPlugins", str(self.options.plugin),
            "--builderOptimizationLevel", str(self.options.level),
            "--timingCacheFile", str(self.work / f"{label.replace(' ', '-')}.cache"),
            "--exportLayerInfo", str(self.work / "layers" / f"{label.replace(' ', '-')}.json"),
            *more, *(UNPROVEN if stage in self.unproven else ()),
        ]  # fmt: skip
        return Part(label, words, seconds, self.environment)

    def keep_layers(self) -> None:
        """Put all layer information so far into one file, which is replaced at once."""
        scratch = self.sitting.out / ".layers.zip.partial"
        with zipfile.ZipFile(scratch, "w", zipfile.ZIP_LZMA) as kept:
            for path in sorted((self.work / "layers").iterdir()):
                if not path.name.startswith("."):  # not yet whole
                    kept.write(path, path.name)
        scratch.replace(self.sitting.out / "layers.zip")

    def tiny(self) -> None:
        """The tiny bundle: its engines, and every check on them."""
        from tests.gpu.engine_checks.place import BUILD

        seconds = self.limits["build"]
        if seconds:
            self.build("build", "half", FIRST, seconds, *BUILD)
            self.build("build", "half", OTHERS, seconds, *BUILD)
            stripped = ["--stripWeights", "--cache", str(self.work / "stripped")]
            self.build("build stripped", "half", STRIPPED, seconds, *BUILD, *stripped)
        if self.limits["checks"]:
            command = [*PYTHON, "-m", "tests.gpu.engine_checks", "--work", str(self.work)]
            command += ["--plugin", str(self.options.plugin)]
            whole, each, start = (self.limits[key] for key in ("checks", "each", "start"))
            series(
                self.sitting,
                Series("checks", command, list(CHECKS), whole, each, start, self.environment),
            )

    def full(self) -> None:
        """VGGT-1B's size: weights made here, engines, and as many views as fit."""
        if not self.limits["full_run"]:
            return
        if not (self.options.bundles / "full").is_dir():
            self.sitting.add(
                "full", "absent", 0.0, f"no full-size graphs in {self.options.bundles}"
            )
            return
        made = self.sitting.run(
            Part(
                "full weights",
                [*PYTHON, "-m", "tests.gpu.full_size", "fill",
                 str(self.options.bundles / "full"), str(self.work / "full")],
                self.limits["weights"],
            )
        )  # fmt: skip
        if made is None or made.code != 0:
            return
        most, some = max(*self.options.views, self.options.most), self.options.views
        chunk = self.options.chunk
        words = ["--views", f"1:{some[0]}:{most}", "--chunk", str(chunk)]
        self.build("full build", "full", FULL, self.limits["full_build"], *words)
        out = self.sitting.out / "vggt.json"
        run = [
            *PYTHON, str(ROOT / "benchmarks" / "vggt_gpu.py"), str(self.work / "full"),
            "--weights", "random", "--plugin", str(self.options.plugin), "--chunk", str(chunk),
            "--views", ",".join(map(str, some)), "--iterations", str(self.options.iterations),
            "--most", str(most), "--out", str(out),
        ]  # fmt: skip
        self.sitting.run(
            Part("full run", run, self.limits["full_run"], self.environment),
            lambda ended: full_detail(out, ended),
        )


def refused(ended: Ended | None) -> bool:
    """Whether a build made an engine that its proof then refused, or could not read."""
    return ended is not None and bool(ended.code) and "its plan was not kept" in ended.output


def full_detail(out: Path, ended: Ended) -> dict[str, Any]:
    """What the full size's own file says in short."""
    record = json.loads(out.read_text()) if out.is_file() else {}
    return {
        "file": out.name if record else None,
        "views": [run["views"] for run in record.get("runs", [])],
        "most": record.get("most"),
        "code": ended.code,
        "tail": ended.output[-2500:],
    }


def probe(day: Day) -> bool:
    """Put the GPU and TensorRT's version on record; False where one is missing."""
    command = [*PYTHON, "-m", "tests.gpu.engine_checks.probe"]
    ended = day.sitting.process("probe", command, day.limits["start"], {})
    try:
        found: dict[str, Any] = json.loads(ended.output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        found = {"reason": ended.output[-1000:] or f"no answer: {ended.code}"}
    day.sitting.record |= found
    day.sitting.write()
    return "reason" not in found


def arguments(given: list[str] | None) -> argparse.Namespace:
    """The command line; a mistake in it is told in one line and ends in exit code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bundles", type=Path, required=True)
    parser.add_argument("--plugin", type=Path, required=True)
    parser.add_argument(
        "--seconds", nargs="+", default=[], metavar="[PART=]N",
        help=f"limits, by part or of all; 0 leaves a part out\n{SECONDS}",
    )  # fmt: skip
    parser.add_argument("--level", type=int, default=2, help="builder optimisation level")
    parser.add_argument(
        "--unproven", nargs="+", default=[], choices=(*FIRST, *OTHERS), metavar="STAGE",
        help="stages that the proof is known to refuse: built once, without it",
    )  # fmt: skip
    parser.add_argument("--views", type=int, nargs="+", default=[100], help="of the full size")
    parser.add_argument("--most", type=int, default=500, help="try to fit so many views")
    parser.add_argument("--chunk", type=int, default=16, help="frames at once, of the full size")
    parser.add_argument("--iterations", type=int, default=3, help="of the full size")
    options = parser.parse_args(given)
    try:
        options.limits = seconds_of(options.seconds, SECONDS)
    except ValueError as error:
        parser.exit(2, f"--seconds: {error}\n")
    for name in ("wide", "half"):
        if not (options.bundles / name / "manifest.json").is_file():
            parser.exit(2, f"{options.bundles}/{name}: no such bundle; see prepare.py bundles\n")
    if not options.plugin.is_file():
        parser.exit(2, f"{options.plugin}: no such plugin library\n")
    for name in ("views", "most", "chunk", "iterations"):
        value = getattr(options, name)
        if min(value if isinstance(value, list) else [value]) < 1:
            parser.exit(2, f"--{name}: use 1 or more\n")
    options.plugin, options.bundles = options.plugin.resolve(), options.bundles.resolve()
    return options


def main(given: list[str] | None = None) -> int:
    """Run the sitting."""
    options = arguments(given)
    end_with_signal()
    sitting = Sitting(options.out.resolve(), "engines", options.limits["all"])
    with tempfile.TemporaryDirectory(prefix="covis-engines-") as scratch:
        work = Path(scratch)
        for name in ("wide", "half"):
            shutil.copytree(options.bundles / name, work / name)
        day = Day(sitting, work, options)
        if not probe(day):
            print("no GPU, or no TensorRT for it: nothing was built; see engines.json")
            return 3
        day.tiny()
        day.full()
    print(sitting.summary())
    return 1 if sitting.failed else 0


if __name__ == "__main__":
    sys.exit(main())
