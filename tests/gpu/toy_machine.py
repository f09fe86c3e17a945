"""Acts every process of the two sittings, for their rehearsal without a GPU.

Started in the place of Python: what follows are the words that Python would have got. The variable
TOY holds JSON that says how each part goes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tests.gpu.toy_units import UNITS
from tests.gpu.units import run_units

SAYS: dict[str, Any] = json.loads(os.environ.get("TOY", "{}"))
KERNELS = ("strides", "graph", "vectors")
REFUSED = "stage x: the engine is not what was asked for: y; its plan was not kept, its layers are"


def after(words: list[str], option: str) -> str:
    """The value of an option."""
    return words[words.index(option) + 1]


def build(words: list[str]) -> int:
    """`covis build`: "passed", "refused" until it is built without the proof, "hangs", "fails"."""
    stage, layers = after(words, "--stages"), Path(after(words, "--exportLayerInfo"))
    kind = "stripped" if "--stripWeights" in words else Path(words[3]).name
    how = SAYS.get(f"{kind} {stage}", "passed")
    print(f"building {stage} {how}", flush=True)
    if how == "hangs":
        time.sleep(60)
    if how == "fails":
        return 3
    layers.write_text(json.dumps({"stage": stage}))
    if how == "refused" and "--profilingVerbosity" not in words:
        print(f"{REFUSED} in {layers}")
        return 4
    return 0


def checks(words: list[str], names: dict[str, Any]) -> int:
    """A series: every check passes, but for what the variable says."""
    units = {name: UNITS[SAYS.get(name, "first")] for name in names}
    records = words.index("--records")
    run_units(units, words[records + 2 :], Path(words[records + 1]))
    return 0


def main(words: list[str]) -> int:
    """One process by the words of its command line."""
    from tests.gpu.engine_checks import CHECKS

    match words:
        case ["-m", "tests.gpu.kernel_units", *_] if "--probe" in words:
            names = list(SAYS.get("kernels", KERNELS))
            print(json.dumps({"cuda_device": "toy GPU", "compute_capability": [9, 0],
                              "checks": names}))  # fmt: skip
        case ["-m", "tests.gpu.kernel_units", *_]:
            return checks(words, dict.fromkeys(SAYS.get("kernels", KERNELS)))
        case ["-m", "tests.gpu.engine_checks.probe"]:
            print(json.dumps({"tensorrt": "10.6.0", "engine_gpu": {"name": "toy GPU"}}))
        case ["-m", "tests.gpu.engine_checks", *_]:
            return checks(words, CHECKS)
        case ["-m", "covis", "build", *_]:
            return build(words)
        case ["-m", "tests.gpu.full_size", "fill", folder, target]:
            Path(target).mkdir()
            print(f"filled {folder}")
        case [script, *_] if script.endswith(".py"):
            found = {"left_out": words[words.index("--left-out") + 1 :]} if (
                "--left-out" in words
            ) else {}  # fmt: skip
            Path(after(words, "--out")).write_text(
                json.dumps({**SAYS.get("benchmark", {}), **found})
            )
            if SAYS.get("benchmark_hangs"):
                time.sleep(60)
        case _:
            print(f"unknown: {words}")
            return 99
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
