"""A local Ray cluster of three workers: one is killed, a node goes, and nothing is missing."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from covis.commands.batch import BatchCommand, make_job
from covis.commands.batch_job import BatchJob, Reconstructor, Row
from covis.commands.batch_scenes import BatchScene, find_scenes
from covis.commands.demo import demo_bundle
from covis.engines.errors import CovisError
from covis.engines.options import RunOptions
from covis.runtime.scene.writers.options import OutputOptions
from covis.runtime.workers.cluster import RayCrew, check_reachable
from covis.runtime.workers.crew import run_crew, run_here
from tests.places import ROOT
from tests.runtime.workers.killing import Squares
from tests.test_cli_batch import check_equal, write_scene

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'covis[ray]'"
)


def test_an_unreachable_cluster_is_told_at_once() -> None:
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "[::1]:1", "127.0.0.1:99999999"):
        with pytest.raises(CovisError, match=r"no Ray cluster .*; start one with `ray start") as e:
            check_reachable(address)
        assert e.value.code == 3 and str(e.value).startswith(f"--ray {address}: ")
    check_reachable("auto")
    check_reachable("local")


MEMORY = 80 << 20  # bytes of each node's store of objects


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of three nodes with one core each; the first is its head.

    The workers find this checkout through the environment.
    """
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        nodes = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": MEMORY}
        )
        for _ in range(2):
            nodes.add_node(num_cpus=1, object_store_memory=MEMORY)
        yield nodes
        nodes.shutdown()


@pytest.mark.slow
@needs_ray
def test_a_killed_actor_is_replaced_and_its_task_done_again(cluster: Any, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    squares = Squares(tmp_path, deadly={1: 1, 3: 99}, wrong=(4,))
    crew: RayCrew[int, object] = RayCrew(squares, 0, cluster.address)
    assert (crew.size, crew.room()) == (3, 3)
    assert signal.getsignal(signal.SIGTERM) is handler  # Ray's own would end the process
    found: dict[int, Any] = {}
    run_crew(crew, range(6), found.__setitem__, describe="task {}".format)
    assert {task: found[task] for task in (0, 1, 2, 5)} == {0: 0, 1: 1, 2: 4, 5: 25}
    assert str(found[4]) == "task 4: is odd; use another"
    assert str(found[3]) == (
        "task 3: its worker died 2 times (ActorDiedError); use fewer --workers"
    )
    assert [squares.attempts(task) for task in range(6)] == [1, 2, 1, 2, 1, 1]


@pytest.mark.slow
@needs_ray
def test_a_cluster_that_is_too_small(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(CovisError, match="no node of the cluster has 2 cores; use fewer") as error:
        RayCrew(Squares(tmp_path), 3, cluster.address, threads=2)
    assert error.value.code == 3
    with pytest.raises(CovisError, match="no node of the cluster has 1 core and 1 GPU; use fewer"):
        RayCrew(Squares(tmp_path), 0, cluster.address, gpus=1)


@pytest.mark.slow
@needs_ray
def test_defects_and_results_that_cannot_be_sent(cluster: Any, tmp_path: Path) -> None:
    for squares, text in (
        (Squares(tmp_path, faulty=(0,)), r"(?s)at 0:.*killing.py.*as if by accident"),
        (Squares(tmp_path, unsendable=(0,)), r"(?s)at 0:.*[Pp]ickl|serializ"),
    ):
        crew: RayCrew[int, object] = RayCrew(squares, 1, cluster.address)
        with pytest.raises(RuntimeError, match=text):
            run_crew(crew, [0], lambda *_: None)


class Foreign:
    """A factory that cannot be unpickled, as on a node without covis."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


@pytest.mark.slow
@needs_ray
def test_a_node_that_cannot_make_workers_is_explained(cluster: Any) -> None:
    crew: RayCrew[int, object] = RayCrew(cast(Any, Foreign()), 1, cluster.address)
    found: list[str] = []
    run_crew(crew, [0], lambda _, error: found.append(str(error)))
    assert "its worker died 2 times (ActorDiedError: " in found[0] and "no number" in found[0]


@pytest.mark.slow
@needs_ray
def test_a_node_that_goes_takes_no_task_with_it(cluster: Any, tmp_path: Path) -> None:
    """Its task waits for a worker that is left, not for a node that may never come."""
    first = sorted(cluster.worker_nodes, key=lambda node: str(node.node_id))[0]
    squares = Squares(tmp_path)
    crew: RayCrew[int, object] = RayCrew(squares, 3, cluster.address)
    found: dict[int, Any] = {}

    def report(task: int, outcome: object) -> None:
        if not found:
            cluster.remove_node(first, allow_graceful=False)
        found[task] = outcome

    try:
        run_crew(crew, range(9), report, attempts=3)
    finally:
        cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    assert found == {task: task**2 for task in range(9)}


class Killing:
    """Factory of a reconstructor that kills its process at the first attempt of a scene."""

    def __init__(self, job: BatchJob, scene: str, log: Path) -> None:
        self.job, self.scene, self.log = job, scene, log

    def __call__(self) -> Any:
        work = Reconstructor(self.job)

        def reconstruct(scene: BatchScene) -> Row:
            if scene.name == self.scene and not (self.log / "killed").exists():
                (self.log / "killed").write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            return work(scene)

        return reconstruct


@pytest.mark.slow
@needs_ray
def test_scenes_on_a_cluster_are_those_of_this_process(cluster: Any, tmp_path: Path) -> None:
    for seed, name in enumerate(("alley", "barn", "court", "dock")):
        write_scene(tmp_path / "captures" / name, seed)
    out = tmp_path / "out"
    command = BatchCommand(
        demo_bundle(), (), out, run=RunOptions(threads=1), output=OutputOptions(formats=("npz",))
    )
    job, pipeline = make_job(command)
    scenes = find_scenes([tmp_path / "captures"], out, each=True)
    rows: dict[str, Row | CovisError] = {}
    crew: RayCrew[BatchScene, Row] = RayCrew(Killing(job, "barn", tmp_path), 3, cluster.address)
    run_crew(crew, scenes, lambda scene, row: rows.update({scene.name: row}))
    assert (tmp_path / "killed").exists()
    here: dict[str, Row | CovisError] = {}
    alone = replace(job, out=tmp_path / "here")
    run_here(Reconstructor(alone, pipeline), scenes, lambda s, row: here.update({s.name: row}))
    for scene in scenes:
        one, other = rows[scene.name], here[scene.name]
        assert isinstance(one, dict) and isinstance(other, dict), (one, other)
        assert {n: one[n] for n in ("views", "selector", "attention_work", "status")} == {
            n: other[n] for n in ("views", "selector", "attention_work", "status")
        }
        check_equal(out / scene.name, tmp_path / "here" / scene.name)
