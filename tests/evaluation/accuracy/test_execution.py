"""Workers that compute, reject, die and fail: every scene is reported once, by name."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from covis.commands.demo import demo_bundle
from covis.engines.bundle.bundle import open_bundle
from covis.engines.errors import CovisError, ExitCode
from covis.engines.options import BackendOptions, RunOptions, Sparsity
from covis.evaluation.accuracy.execution import run, run_crew, start_workers
from covis.evaluation.accuracy.job import Job, chosen_scenes
from covis.evaluation.accuracy.scoring import Record, ScoreOptions
from covis.evaluation.datasets.truth import SceneRef
from covis.runtime.workers.options import WorkerOptions
from tests.evaluation.accuracy.crashing import Crashing
from tests.places import ROOT

FIRST = 1_000_000


def job(dataset: Crashing) -> Job:
    return Job(
        bundle=demo_bundle(),
        dataset=dataset,
        sparsity=Sparsity(selector="dense"),
        score=ScoreOptions(metrics=("pose",)),
        views=2,
        run=RunOptions(threads=1),
    )


def collect(
    go: Callable[[Callable[[SceneRef, Record | CovisError], None]], None],
) -> dict[str, Record | CovisError]:
    """Collect the reports and require each scene once."""
    found: list[tuple[str, Record | CovisError]] = []
    go(lambda scene, outcome: found.append((scene.name, outcome)))
    assert max(Counter(name for name, _ in found).values()) == 1
    return dict(found)


def numbers(outcomes: dict[str, Record | CovisError]) -> dict[str, object]:
    return {name: o["rotation_median"] for name, o in outcomes.items() if isinstance(o, dict)}


@pytest.fixture
def crashing(tmp_path: Path) -> Crashing:
    """Four scenes: the second kills one worker, the third every worker it gets."""
    deadly = {FIRST + 1: 1, FIRST + 2: 99}
    return Crashing(tmp_path, range(FIRST, FIRST + 4), deadly)


def check_crashes(
    crashing: Crashing, outcomes: dict[str, Record | CovisError], reason: str
) -> None:
    names = [scene.name for scene in crashing.scenes()]
    assert set(outcomes) == set(names)
    dead = outcomes[names[2]]
    assert isinstance(dead, CovisError) and dead.code == 3
    assert str(dead).startswith(f"{names[2]}: its worker died 2 times ({reason}")
    assert all(isinstance(outcomes[names[i]], dict) for i in (0, 1, 3))
    attempts = Counter(int(path.name.split(".")[0]) for path in crashing.log.iterdir())
    assert attempts == {FIRST: 1, FIRST + 1: 2, FIRST + 2: 2, FIRST + 3: 1}


def test_local_workers_die_and_are_replaced(crashing: Crashing, tmp_path: Path) -> None:
    work = job(crashing)
    outcomes = collect(lambda report: run(work, crashing.scenes(), report, WorkerOptions(2)))
    check_crashes(crashing, outcomes, "SIGKILL, perhaps out of memory")
    (tmp_path / "calm").mkdir()
    calm = Crashing(tmp_path / "calm", crashing.seeds)
    here = collect(partial(run, job(calm), calm.scenes()[:2]))
    assert numbers(here).items() <= numbers(outcomes).items()


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'covis[ray]'"
)
def test_ray_workers_die_and_are_replaced(
    crashing: Crashing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local cluster of two workers, one of them killed; takes a minute on two busy cores:

    python -m pytest -m slow tests/evaluation/accuracy/test_execution.py

    The workers find this checkout through the environment.
    """
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    crew = start_workers(job(crashing), WorkerOptions(2, "local"), 4)
    assert crew.size in (1, 2)  # no more than the machine has cores
    outcomes = collect(lambda report: run_crew(crew, crashing.scenes(), report))
    check_crashes(crashing, outcomes, "ActorDiedError")


def test_one_error_does_not_stop_the_others(tmp_path: Path) -> None:
    dataset = Crashing(tmp_path, range(FIRST, FIRST + 2))
    broken = Job(demo_bundle() / "nowhere", dataset, Sparsity())
    outcomes = collect(partial(run, broken, dataset.scenes()))
    assert len(outcomes) == 2
    for name, outcome in outcomes.items():
        assert isinstance(outcome, CovisError) and "no such bundle folder" in str(outcome)
        assert str(outcome).startswith(name)


def test_a_worker_opens_no_other_bundle(tmp_path: Path) -> None:
    """Results of two bundles in one folder could not be told apart."""
    dataset = Crashing(tmp_path, range(FIRST, FIRST + 1))
    right = open_bundle(demo_bundle()).digest()
    for digest, done in ((right, True), ("0" * 64, False)):
        job_of_one = replace(job(dataset), digest=digest)
        outcomes = collect(partial(run, job_of_one, dataset.scenes()))
        (outcome,) = outcomes.values()
        assert isinstance(outcome, dict) == done
        if isinstance(outcome, CovisError):
            assert "was replaced by another bundle since the evaluation began" in outcome.what
            assert outcome.code == ExitCode.USER


def test_scenes_are_chosen_by_pattern(tmp_path: Path) -> None:
    dataset = Crashing(tmp_path, range(FIRST, FIRST + 3))
    names = [s.name for s in dataset.scenes()]
    assert [s.name for s in chosen_scenes(dataset, ["*1/3", "*/1000000/*"], 0)] == names[:2]
    assert [s.name for s in chosen_scenes(dataset, [], 1)] == names[:1]
    with pytest.raises(CovisError, match="--scenes no: none of the 3 scenes is called that"):
        chosen_scenes(dataset, ["*", "no"], 0)


def test_options_that_decide_a_number_are_in_the_fingerprint(tmp_path: Path) -> None:
    base = job(Crashing(tmp_path, range(FIRST, FIRST + 1)))
    same = replace(base, run=RunOptions(chunk=7, threads=2), bundle=tmp_path)
    assert same.options("d") == base.options("d") != base.options("e")
    for change in ({"views": 3}, {"seed": 1}, {"sampling": "even"}, {"sparsity": Sparsity()},
                   {"score": ScoreOptions(icp=1)}):  # fmt: skip
        assert replace(base, **change).options("d") != base.options("d")  # type: ignore[arg-type]
    on_gpu = RunOptions(backend=BackendOptions("cuda"))  # rounds in another way
    assert replace(base, run=on_gpu).options("d") == base.options("d") | {"backend": "cuda"}
    with pytest.raises(CovisError, match="--views: 1 views make no pair"):
        replace(base, views=1)
