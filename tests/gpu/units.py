"""Checks that share a process for speed, and still cannot take each other down.

The child (`run_units`) writes a line of JSON before and after each check. The parent (`series`)
watches these lines: a check that exceeds its limit is stopped with its process, and a new process
goes on behind it.
"""

from __future__ import annotations

import json
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.gpu.sitting import LEAST_SECONDS, Sitting, Status, started_process

POLL_SECONDS = 0.1


class AbsentError(Exception):
    """What a check needs is not installed here: neither passed nor failed, but told."""


class WrongError(Exception):
    """Some of a check's records are not as they must be.

    Args:
        records: all of them.
    """

    def __init__(self, records: Any) -> None:
        super().__init__("some records are not as they must be")
        self.records = records


def run_units(units: Mapping[str, Callable[[], Any]], wanted: Sequence[str], records: Path) -> None:
    """Run checks by name, one after the other, and write down how each ended.

    Ends early behind one that raised something else than an AssertionError: the device may be
    lost, and what follows deserves a process that has not seen it.
    """
    with records.open("a") as stream:

        def tell(**line: Any) -> None:
            stream.write(json.dumps(line, default=str) + "\n")
            stream.flush()

        for name in wanted:
            tell(begun=name)
            started = time.monotonic()
            status, detail, lost = unit_result(units[name])
            tell(unit=name, status=status, seconds=time.monotonic() - started, detail=detail)
            if lost:
                return


def unit_result(unit: Callable[[], Any]) -> tuple[Status, Any, bool]:
    """(status, detail, whether the process should end) of one check."""
    try:
        return "passed", unit(), False
    except AbsentError as missing:
        return "absent", str(missing), False
    except WrongError as wrong:
        return "failed", wrong.records, False
    except AssertionError:
        return "failed", traceback.format_exc()[-3000:], False
    except BaseException:
        return "failed", traceback.format_exc()[-3000:], True


@dataclass(frozen=True)
class Series:
    """Checks to run in as few processes as they allow.

    Attributes:
        name: in the record; a check's part is `NAME/CHECK`.
        command: the child; `--records FILE` and the names of the checks are put behind it.
        units: names, in order.
        seconds: for all of them.
        each: for one.
        start: for a process to begin with its first check.
        environment: variables besides those of this process.
    """

    name: str
    command: Sequence[str]
    units: Sequence[str]
    seconds: float
    each: float
    start: float
    environment: Mapping[str, str] = field(default_factory=dict)


def series(sitting: Sitting, work: Series) -> None:
    """Run the checks; each is on record as soon as it has ended.

    A name may end in a subject, as in `vectors hopper fp8`. The checks of a subject that hung go
    behind all others: they would hang as well, each for its whole limit.
    """
    todo = list(work.units)
    ends = time.monotonic() + min(work.seconds, sitting.left())
    while todo and ends - time.monotonic() >= LEAST_SECONDS:
        done, hung = _one_process(sitting, work, todo, ends)
        subject = todo[done - 1].partition(" ")[2] if hung and done else ""
        todo = todo[max(done, 1) :]
        if subject:
            todo.sort(key=lambda name: name.partition(" ")[2] == subject)
        if done == 0:  # another process would end in the same way
            break
    for name in todo:
        sitting.add(f"{work.name}/{name}", "not run", 0.0, "no time was left, or nothing began")


def _one_process(
    sitting: Sitting, work: Series, todo: Sequence[str], ends: float
) -> tuple[int, bool]:
    """Run checks until one needs a new process.

    Returns:
        How many of `todo` are on record now, and whether the last of them was stopped.
    """
    done, begun = 0, False
    since, stopped = time.monotonic(), False
    with tempfile.TemporaryDirectory(prefix="covis-units-") as folder:
        lines = Path(folder) / "records.jsonl"
        lines.touch()
        command = [*work.command, "--records", str(lines), *todo]
        with (
            (Path(folder) / "output").open("w+b") as output,
            lines.open() as told,
        ):
            with started_process(command, output, work.environment) as child:
                while done < len(todo) and not stopped:
                    ended = child.poll() is not None  # asked first: its last lines are read below
                    for line in _whole_lines(told):
                        begun, since = "begun" in line, time.monotonic()
                        if not begun:
                            name = f"{work.name}/{line['unit']}"
                            sitting.add(name, line["status"], line["seconds"], line["detail"])
                            done += 1
                    if ended:
                        break
                    now = time.monotonic()
                    stopped = now > ends or now - since > (work.each if begun else work.start)
                    time.sleep(POLL_SECONDS)
                code = child.poll()
            text = sitting.keep_output(work.name, output)
    if begun or done == 0:
        took = time.monotonic() - since
        how = f"stopped at {took:.0f} s" if stopped else f"its process ended with {code}"
        where = "" if begun else ", before its first check"
        status: Status = "stopped" if stopped else "failed"
        sitting.add(f"{work.name}/{todo[done]}", status, took, f"{how}{where}: {text[-2000:]}")
    return done + begun, stopped


def _whole_lines(told: Any) -> list[Any]:
    """The records written since the last call; a line that is not whole yet is left there."""
    found: list[Any] = []
    while True:
        place = told.tell()
        line = told.readline()
        if not line.endswith("\n"):
            told.seek(place)
            return found
        found.append(json.loads(line))
