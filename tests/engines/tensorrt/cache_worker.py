"""A process that requests a plan from a cache; its arguments are FOLDER LOG SECONDS.

Each build appends a line to LOG when it begins and when it is done, and takes SECONDS.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from covis.engines.tensorrt.plans.cache import EngineInfo, PlanCache, Write
from tests.engines.tensorrt.plan_inputs import plan_inputs

PIECE = bytes(range(256)) * 1024


def main(folder: Path, log: Path, seconds: float) -> None:
    def note(word: str) -> None:
        with log.open("a") as stream:
            stream.write(f"{word} {os.getpid()}\n")

    def build(write: Write) -> None:
        write(PIECE)
        note("begun")
        time.sleep(seconds)
        write(memoryview(PIECE))
        note("done")

    record, built = PlanCache(folder).get(
        plan_inputs(), build, lambda plan: EngineInfo('{"Layers": []}', 42)
    )
    print(record.sha256, built)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
