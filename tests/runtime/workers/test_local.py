"""Local workers that compute, fail and are killed: results are those of a run without them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from covis.engines.errors import CovisError
from covis.runtime.workers.crew import Event, run_crew
from covis.runtime.workers.local import LocalCrew, share_of_cores
from covis.runtime.workers.options import WorkerOptions
from covis.runtime.workers.start import start_crew
from tests.places import ROOT
from tests.runtime.workers.killing import Squares


def outcomes(squares: Squares, count: int, size: int) -> tuple[dict[int, Any], list[Event[int]]]:
    found: dict[int, Any] = {}
    events: list[Event[int]] = []
    crew: LocalCrew[int, object] = LocalCrew(squares, size)

    def report(task: int, outcome: object) -> None:
        assert task not in found
        found[task] = outcome

    run_crew(crew, range(count), report, describe="task {}".format, on_event=events.append)
    assert not crew._workers
    return found, events


def test_a_killed_worker_is_replaced_and_its_task_done_again(tmp_path: Path) -> None:
    squares = Squares(tmp_path, deadly={2: 1, 4: 99}, wrong=(5,))
    found, events = outcomes(squares, 7, 2)
    assert {task: found[task] for task in (0, 1, 2, 3, 6)} == {0: 0, 1: 1, 2: 4, 3: 9, 6: 36}
    assert str(found[5]) == "task 5: is odd; use another"
    died = "its worker died 2 times (SIGKILL, perhaps out of memory)"
    assert str(found[4]) == f"task 4: {died}; use fewer --workers"
    assert [squares.attempts(task) for task in range(7)] == [1, 1, 2, 1, 2, 1, 1]
    assert 3 <= squares.starts() <= 5  # a worker that lives takes a task before a successor does
    lost = [(event.task, event.attempt, event.again) for event in events if event.kind == "lost"]
    assert sorted(lost) == [(2, 1, True), (4, 1, True), (4, 2, False)]


def test_a_worker_that_dies_while_idle_costs_no_task(tmp_path: Path) -> None:
    squares = Squares(tmp_path)
    crew: LocalCrew[int, object] = LocalCrew(squares, 1)
    done: list[int] = []

    def report(task: int, outcome: object) -> None:
        assert outcome == task**2
        done.append(task)
        for process, _ in crew._workers.values():
            process.kill()
            process.join()

    run_crew(crew, range(2), report)
    assert done == [0, 1] and squares.starts() == 2


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"faulty": (0,)}, r"(?s)at task 0:.*killing.py.*as if by accident"),
        ({"unsendable": (0,)}, r"(?s)at task 0:.*pickle"),
    ],
)
def test_defects_keep_their_traceback(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    with pytest.raises(RuntimeError, match=text):
        outcomes(Squares(tmp_path, **change), 1, 1)


def test_a_factory_that_fails_fails_each_task(tmp_path: Path) -> None:
    crew: LocalCrew[int, object] = LocalCrew(_refusing, 1)
    found: list[str] = []
    run_crew(crew, range(2), lambda task, error: found.append(f"{task} {error}"))
    assert found == ["0 b: no such bundle", "1 b: no such bundle"]


def _refusing() -> Any:
    from covis.engines.errors import user_error

    raise user_error("no such bundle", where="b")


def test_workers_share_out_the_cores(tmp_path: Path) -> None:
    cores = os.cpu_count() or 1
    assert share_of_cores(1) == cores and share_of_cores(10 * cores) == 1
    for asked, tasks, threads, expected in ((2, 9, 0, share_of_cores(2)), (5, 1, 0, cores),
                                            (2, 9, 3, 3)):  # fmt: skip
        given: list[int] = []

        def make_for(each: int, given: list[int] = given) -> Squares:
            given.append(each)
            return Squares(tmp_path)

        crew = start_crew(make_for, WorkerOptions(asked), tasks=tasks, threads=threads)
        assert given == [expected] and crew.size == min(asked, tasks)


_MAIN = """
import sys
from pathlib import Path
from covis.engines.system.signals import Terminated, termination_raised
from covis.runtime.workers.crew import run_crew
from covis.runtime.workers.local import LocalCrew
from tests.runtime.workers.killing import Squares

if __name__ == "__main__":
    with termination_raised():
        try:
            run_crew(LocalCrew(Squares(Path(sys.argv[1]), slow=(0, 1)), 2), range(2), print)
        except KeyboardInterrupt as end:
            print(type(end).__name__)
"""


@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "Terminated"), (signal.SIGKILL, "")],
)
def test_workers_end_with_the_command(tmp_path: Path, number: signal.Signals, name: str) -> None:
    script, log = tmp_path / "main.py", tmp_path / "log"
    script.write_text(_MAIN)
    log.mkdir()
    process = subprocess.Popen(
        [sys.executable, script, log], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    _until(lambda: len(list(log.glob("task.*"))) == 2)
    workers = [int(path.suffix[1:]) for path in log.glob("task.*")]
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert out.strip() == name and "Traceback" not in err
    _until(lambda: not any(_alive(worker) for worker in workers))


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _until(fulfilled: Any) -> None:
    deadline = time.monotonic() + 120
    while not fulfilled():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_errors_pass_whole_from_a_worker(tmp_path: Path) -> None:
    found, _ = outcomes(Squares(tmp_path, wrong=(0,)), 1, 1)
    assert isinstance(found[0], CovisError) and found[0].code == 2
    assert (found[0].where, found[0].what, found[0].hint) == ("task 0", "is odd", "use another")
