"""Bundles and photos that several tests share, each made once a run, and what a run shares.

A run may be several processes (pytest -n 2): what they share lies in the run's own folder, and is
made under a lock by whichever of them asks first.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.engines.mini_bundle import write_bundle
from tests.tiny_vggt import export_tiny_bundle

# Shells start background jobs with Ctrl-C ignored, and nohup with SIGHUP. Children inherit that,
# and the tests that send these signals would then wait for ever, or fail.
for _signal, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGTERM, signal.SIG_DFL),
):
    if signal.getsignal(_signal) == signal.SIG_IGN:
        signal.signal(_signal, _handler)

WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if WORKER:
    # A worker is a core: matrices are small here, and threads of two workers that wait for each
    # other's cores take several times the processor time. Read when torch and NumPy are loaded.
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_name, "1")

Once = Callable[[str, Callable[[Path], object]], Path]

# What `pytest --quick` leaves unread, by measured time: whole exports and their comparison with
# torch, builds of native code, emulated kernels, evaluations of whole sets. `make test` runs them.
THOROUGH = {
    "benchmarks",
    "emulator",
    "engines/graphs/test_shapes.py",
    "engines/tensorrt/test_triton.py",
    "evaluation/accuracy/test_execution.py",
    "evaluation/sweep",
    "evaluation/test_eval_command.py",
    "export/acceleration",
    "export/models",
    "export/ops/test_suite.py",
    "export/ops/test_translate.py",
    "export/passes",
    "export/selection",
    "export/test_attention_analysis.py",
    "export/test_exporter.py",
    "export/test_head_groups.py",
    "export/test_onnx_parity.py",
    "export/test_regimes.py",
    "export/test_without_points.py",
    "export/training",
    "export/weights/test_shards.py",
    "gpu",
    "plugins",
    "runtime/collection/test_collection.py",
    "runtime/scene/test_html.py",
    "runtime/workers",
    "tensorrt",
    "test_cli_batch.py",
    "test_cli_bench.py",
    "test_cli_collection.py",
    "test_cli_compare.py",
    "test_cli_export.py",
    "test_cli_run.py",
    "test_demo.py",
    "test_documentation.py",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="leave out the tests that take long")


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Seed torch's generator, so that no test depends on the tests before it in its process."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Not even import them: half of the time of a quick run would go there."""
    if not config.getoption("--quick"):
        return None
    name = collection_path.relative_to(Path(__file__).parent).as_posix()
    return True if name in THOROUGH else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, in other files, the tests for which a model has to be exported."""
    if config.getoption("--quick"):
        whole = [i for i in items if "tiny_bundle" in getattr(i, "fixturenames", ())]
        config.hook.pytest_deselected(items=whole)
        items[:] = [item for item in items if item not in whole]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add a worker's part to the summary of emulated kernels."""
    found = getattr(node, "workeroutput", {}).get("emulated")
    if found:
        from tests.emulator.judge import SUMMARY

        SUMMARY.add(found)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was emulated, and leave it in build/cuda/emulator/summary.json."""
    judge = sys.modules.get("tests.emulator.judge")
    lines = [] if WORKER or judge is None else list(judge.SUMMARY.lines())
    if judge is not None and lines:
        judge.SUMMARY.write()
        terminalreporter.section("emulated kernels")
        for line in (*lines, f"{judge.SUMMARY.seconds:.0f} s"):
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this test run, the same in all of its processes."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if WORKER else base


@pytest.fixture(scope="session", autouse=True)
def traces(run_folder: Path) -> None:
    """Where `shared_traces` keeps them."""
    os.environ.setdefault("COVIS_TEST_TRACES", str(run_folder / "traces"))


@pytest.fixture(scope="session")
def once(run_folder: Path) -> Once:
    """Makes a folder by name with a function that fills it, if no process of the run has yet."""

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder = run_folder / f"shared-{name}"
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                part = folder.with_suffix(".part")
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                fill(part)
                part.rename(folder)
        return folder

    return make


@pytest.fixture
def mini_bundle(tmp_path: Path) -> Path:
    """A whole bundle of two trivial stages, to be damaged; made in milliseconds."""
    return write_bundle(tmp_path / "bundle")


@pytest.fixture(scope="session")
def tiny_bundle(once: Once) -> Path:
    """A VGGT bundle of 56 x 84 pixels, exported and verified as `covis export` does.

    Read it, but damage only a `tiny_copy`.
    """
    made = once("tiny", lambda folder: export_tiny_bundle(folder, anew=True, verify=True))
    return made / "bundle"


@pytest.fixture
def tiny_copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_bundle` of the test's own."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def collection_photos(once: Once) -> Path:
    """Twenty photos of 56 x 56 pixels around some objects, `view_000.jpg` to `view_019.jpg`."""

    def make(folder: Path) -> None:
        from covis.synthetic.photos import demo_scene, write_photos

        write_photos(folder, demo_scene(20, 56, 56, family="objects"))

    return once("collection_photos", make)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four photos of a made scene, 112 x 84 pixels (W x H)."""
    from covis.synthetic.photos import demo_scene, write_photos

    folder = tmp_path_factory.mktemp("scene") / "photos"
    write_photos(folder, demo_scene(views=4, height=84, width=112))
    return folder
