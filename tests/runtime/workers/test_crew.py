"""Schedule of a crew, without processes: every task is reported once, dead workers or not."""

from __future__ import annotations

from collections import Counter

import pytest

from covis.engines.errors import CovisError, environment_error, user_error
from covis.runtime.workers.crew import Crew, Died, Event, Fault, Outcome, Worker, run_crew, run_here
from covis.runtime.workers.options import WorkerOptions


class Scripted(Crew[str, int]):
    """A crew that answers in the worst order.

    Args:
        size: Number of workers.
        script: Task -> its outcomes, attempt by attempt.
        rooms: Number of places at each question; `size` where it ends.
    """

    def __init__(
        self, size: int, script: dict[str, list[Outcome[int]]], rooms: tuple[int, ...] = ()
    ) -> None:
        self.size, self.script, self.closed = size, script, False
        self.busy: dict[int, str] = {}
        self.order: list[str] = []
        self.rooms = list(rooms)
        self.most = 0

    def room(self) -> int:
        return self.rooms.pop(0) if self.rooms else self.size

    def assign(self, worker: int, task: str) -> None:
        assert worker not in self.busy and 0 <= worker < self.size
        self.busy[worker] = task
        self.order.append(task)
        self.most = max(self.most, len(self.busy))

    def wait(self) -> list[tuple[int, Outcome[int]]]:
        worker = max(self.busy)
        return [(worker, self.script[self.busy.pop(worker)].pop(0))]

    def close(self) -> None:
        self.closed = True


def collect(crew: Scripted, attempts: int = 2) -> tuple[dict[str, int | CovisError], list[str]]:
    """Run all tasks of a script; return the reports, each task once, and the events as text."""
    found: list[tuple[str, int | CovisError]] = []
    events: list[str] = []

    def note(event: Event[str]) -> None:
        again = " again" * event.again
        events.append(f"{event.kind} {event.task}{event.attempt}{again} {event.how}".rstrip())

    tasks = list(crew.script)
    run_crew(crew, tasks, lambda *reported: found.append(reported), attempts=attempts,
             cure="buy memory", on_event=note)  # fmt: skip
    assert Counter(name for name, _ in found) == Counter(tasks)
    assert crew.closed
    return dict(found), events


@pytest.mark.parametrize("size", [1, 2, 7])
def test_all_are_reported_once(size: int) -> None:
    script: dict[str, list[Outcome[int]]] = {name: [ord(name)] for name in "abcdef"}
    script["b"] = [Died("x"), 98]
    script["c"] = [user_error("is wrong", where="c")]
    script["e"] = [Died("x"), Died("y")]
    crew = Scripted(size, script)
    outcomes, events = collect(crew)
    assert outcomes["a"] == 97 and outcomes["b"] == 98
    assert str(outcomes["c"]) == "c: is wrong"
    assert str(outcomes["e"]) == "e: its worker died 2 times (y); buy memory"
    assert isinstance(outcomes["e"], CovisError) and outcomes["e"].code == 3
    assert crew.order[:6] == list("abcdef") and sorted(crew.order[6:]) == ["b", "e"]
    assert not any(script.values())
    for line in ("begun b1", "lost b1 again x", "begun b2", "done b2", "done c1", "lost e2 y"):
        assert events.count(line) == 1


def test_one_attempt_and_many() -> None:
    outcomes, _ = collect(Scripted(1, {"a": [Died("x")]}), attempts=1)
    assert str(outcomes["a"]) == "a: its worker died once (x); buy memory"
    outcomes, _ = collect(Scripted(1, {"a": [Died("x")] * 4 + [1]}), attempts=5)
    assert outcomes == {"a": 1}


def test_a_task_that_no_worker_received_costs_no_attempt() -> None:
    lost: list[Outcome[int]] = [Died("no place", started=False)] * 3
    crew = Scripted(2, {"a": [*lost, 1], "b": [2], "c": [3]})
    outcomes, events = collect(crew, attempts=1)
    assert outcomes == {"a": 1, "b": 2, "c": 3}
    assert events.count("lost a1 again no place") == 3
    # It goes back to the front of the queue.
    assert crew.order.index("c") > 0 and crew.order.count("a") == 4


def test_no_more_tasks_are_under_way_than_there_is_room() -> None:
    crew = Scripted(3, {name: [1] for name in "abcdef"}, rooms=(1,) * 20)
    collect(crew)
    assert crew.most == 1
    crew = Scripted(3, {name: [1] for name in "ab"}, rooms=(0,) * 20)
    collect(crew)  # without any place, one task waits for it
    assert crew.most == 1


def test_a_crew_is_closed_when_reporting_fails() -> None:
    crew = Scripted(2, {"a": [1], "b": [2]})

    def full(*_: object) -> None:
        raise environment_error("full")

    with pytest.raises(CovisError, match="full"):
        run_crew(crew, ["a", "b"], full)
    assert crew.closed


def test_a_defect_is_raised_with_its_traceback_and_ends_the_crew() -> None:
    crew = Scripted(2, {"a": [Fault("Traceback of a")], "b": [2]})
    with pytest.raises(RuntimeError, match=r"(?s)in a worker, at a:.*Traceback of [ab]"):
        run_crew(crew, ["a"], lambda *_: None)
    assert crew.closed


def test_a_worker_makes_its_function_once_and_tries_again_where_that_fails() -> None:
    calls: list[int] = []

    def make() -> type[int]:
        calls.append(1)
        if len(calls) == 1:
            raise user_error("no such bundle folder", where="b")
        return int

    worker: Worker[str, int] = Worker(make)
    assert str(worker("7")) == "b: no such bundle folder"
    assert (worker("7"), worker("8"), len(calls)) == (7, 8, 2)
    fault = worker("x")
    assert isinstance(fault, Fault) and "invalid literal for int" in fault.text


def test_memory_that_a_worker_lacks_is_an_error_of_the_task() -> None:
    def full(_: str) -> int:
        raise MemoryError

    error = Worker(lambda: full)("a")
    assert isinstance(error, CovisError) and error.code == 3
    assert str(error) == "out of memory in a worker; use fewer --workers"


def test_without_workers_a_failed_task_stops_no_other() -> None:
    def work(task: str) -> int:
        if task == "b":
            raise user_error("is wrong", where=task)
        return ord(task)

    found: list[str] = []
    run_here(work, "abc", lambda task, outcome: found.append(f"{task} {outcome}"))
    assert found == ["a 97", "b b: is wrong", "c 99"]


def test_options_of_the_workers() -> None:
    assert WorkerOptions().alone and not WorkerOptions(2).alone
    assert not WorkerOptions(1, "auto").alone and not WorkerOptions(0, "auto").alone
    with pytest.raises(CovisError, match="--workers: 0 is below 1; use 1 or more"):
        WorkerOptions(0)
    with pytest.raises(CovisError, match="--workers: -1 is negative"):
        WorkerOptions(-1, "auto")
