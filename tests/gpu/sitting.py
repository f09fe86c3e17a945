"""A sitting at a GPU: parts that end by themselves, each on record as soon as it has ended.

Every part is a process, or several, with a time limit; what hangs or crashes takes nothing else
with it. `OUT/NAME.json` is replaced after each part and each unit of one, `OUT/NAME.log` has what
the processes printed: a cut loses only what was running.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.gpu_facts import clocks, gpu_facts
from tests.places import ROOT

LEAST_SECONDS = 3.0  # with less left, nothing is begun
Status = Literal["passed", "failed", "absent", "stopped", "not run"]
Record = dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """A process that has ended.

    Attributes:
        code: its exit code; None where it was stopped at its limit.
        seconds: how long it ran.
        output: what it printed, standard output and error together.
    """

    code: int | None
    seconds: float
    output: str


@dataclass(frozen=True)
class Part:
    """One process with a limit of its own.

    Attributes:
        name: in the record.
        command: to run in the checkout.
        seconds: after which it is stopped, with all that it started.
        environment: variables besides those of this process.
    """

    name: str
    command: Sequence[str]
    seconds: float
    environment: Mapping[str, str] = field(default_factory=dict)


class Sitting:
    """The record of one sitting, and the time that is left of it."""

    def __init__(self, out: Path, name: str, seconds: float) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.name = out, name
        self._started, self._seconds = time.monotonic(), seconds
        self._lock = threading.Lock()
        self._log = out / f"{name}.log"
        self._log.write_text("")
        self.record: Record = {
            "command": " ".join(sys.argv),
            "seconds_allowed": seconds,
            **gpu_facts(),
            "parts": [],
        }
        self.write()

    def left(self) -> float:
        """Seconds until the sitting ends."""
        return self._seconds - (time.monotonic() - self._started)

    def write(self) -> None:
        """Replace the record on the disk by what is known now."""
        with self._lock:
            self.record["seconds"] = round(time.monotonic() - self._started, 1)
            write_json(self.out / f"{self.name}.json", self.record)

    def add(self, name: str, status: Status, seconds: float, detail: Any = None) -> Record:
        """Put a part on record, and say so."""
        record = {
            "part": name,
            "status": status,
            "seconds": round(seconds, 2),
            "detail": detail,
            "clocks": clocks(),
        }
        with self._lock:
            self.record["parts"].append(record)
        self.write()
        print(f"{status:8}{name}  {seconds:.1f} s", flush=True)
        if status in ("failed", "stopped"):
            # Of records the first ones, which are the wrong ones; of an output its end.
            told = json.dumps(detail)[:700] if isinstance(detail, list) else str(detail)[-700:]
            print(f"        {told}", flush=True)
        return record

    def run(self, part: Part, detail: Callable[[Ended], Any] | None = None) -> Ended | None:
        """Run a part; None where no time was left for it.

        Args:
            part: what to run.
            detail: what its record says of it; the end of its output where not given.
        """
        seconds = min(part.seconds, self.left())
        if self.left() < LEAST_SECONDS:
            self.add(part.name, "not run", 0.0, "no time was left")
            return None
        ended = self.process(part.name, part.command, seconds, part.environment)
        status: Status = "stopped" if ended.code is None else "failed" if ended.code else "passed"
        told = ended.output[-3000:] if detail is None else detail(ended)
        self.add(part.name, status, ended.seconds, told)
        return ended

    def run_together(self, parts: Sequence[Part]) -> dict[str, Ended | None]:
        """Run parts side by side; each has its own limit and is on record when it has ended."""
        found: dict[str, Ended | None] = {}

        def work(part: Part) -> None:
            found[part.name] = self.run(part)

        threads = [threading.Thread(target=work, args=(part,)) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    def process(
        self, name: str, command: Sequence[str], seconds: float, environment: Mapping[str, str]
    ) -> Ended:
        """Run a process to its end or its limit, and keep what it printed in the log."""
        started = time.monotonic()
        with tempfile.TemporaryFile() as output:
            with started_process(command, output, environment) as child:
                try:
                    code: int | None = child.wait(seconds)
                except subprocess.TimeoutExpired:
                    code = None
            text = self.keep_output(name, output)
        return Ended(code, time.monotonic() - started, text)

    def keep_output(self, name: str, output: Any) -> str:
        """Add a process's output to the log, and return it."""
        output.seek(0)
        text = str(output.read().decode(errors="replace"))
        with self._lock, self._log.open("a") as log:
            log.write(f"== {name}\n{text}\n")
        return text

    @property
    def failed(self) -> bool:
        """Whether anything failed, was stopped, or was not run."""
        return any(part["status"] not in ("passed", "absent") for part in self.record["parts"])

    def summary(self) -> str:
        """How many parts ended how, in one line."""
        kinds = [part["status"] for part in self.record["parts"]]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        return f"{self.name}: {counts or 'nothing was run'}, {self._seconds - self.left():.0f} s"


@contextlib.contextmanager
def started_process(
    command: Sequence[str], output: Any, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, which is killed whole at the end of the block."""
    child = subprocess.Popen(
        list(command),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        start_new_session=True,
    )
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5)  # one that hangs inside a driver call may outlive even that


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file at once: whoever reads it finds the old one or the new one, whole."""
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_text(json.dumps(value, indent=1) + "\n")
    scratch.replace(path)


def end_with_signal() -> None:
    """Let SIGTERM end this process as Ctrl-C does, so that nothing it started goes on."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)


def seconds_of(words: Sequence[str], known: Mapping[str, float]) -> dict[str, float]:
    """The limits by part: `known`, with those changed that words such as `checks=60` name.

    A number alone is the limit of all, by the name `all`.

    Raises:
        ValueError: no such part, or no number of seconds.
    """
    limits = dict(known)
    for word in words:
        name, _, number = word.rpartition("=")
        name = name or "all"
        if name not in limits:
            raise ValueError(f"{word!r} names no part; use {', '.join(limits)}")
        try:
            limits[name] = float(number)
        except ValueError:
            raise ValueError(f"{word!r} is no number of seconds") from None
        if not 0 <= limits[name] < 86_400:
            raise ValueError(f"{word!r} is not in [0, 86400)")
    return limits
