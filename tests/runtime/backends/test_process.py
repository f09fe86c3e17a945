"""Processes and threads of a backend: after a fork, and where the system starts no more threads."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.engines.mini_bundle import write_bundle
from tests.places import DEMO, ROOT

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

_PIPELINE = """
import os, signal, sys
import numpy as np
import covis
from covis.runtime.pipeline import load

photos = [np.full((120, 160, 3), value, np.uint8) for value in (20, 200)]
pipeline = load(sys.argv[1])

def in_child(call):
    "Run a call in a forked process that ends normally; return its exit status."
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            call()
        except covis.CovisError as error:
            print(error.code, error)
        sys.exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def output(code: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_pipeline_in_a_forked_process() -> None:
    code = _PIPELINE + (
        "pipeline(photos)\n"
        "print(in_child(lambda: pipeline(photos)))\n"
        "print(in_child(lambda: print(load(sys.argv[1])(photos).depth.shape)))\n"
        "print(pipeline(photos).depth.shape)\n"
    )
    refused, status, anew, status_anew, again = output(code, DEMO).splitlines()
    assert refused.startswith("2 pipeline: was opened in process ")
    assert refused.endswith(
        "load the bundle in the new process, or start it with the method 'spawn'"
    )
    assert status == status_anew == "7"  # neither a crash nor a signal when the process ends
    assert anew == again == "(2, 112, 112)"


def test_engines_in_a_forked_process(mini_bundle: Path) -> None:
    """Nothing of CUDA or TensorRT is touched before the process is compared."""
    code = _PIPELINE.replace("pipeline = load(sys.argv[1])", "") + (
        "from covis.engines.bundle.bundle import open_bundle\n"
        "from covis.engines.options import BackendOptions\n"
        "from covis.runtime.backends.backend import TensorRtBackend\n"
        "bundle = open_bundle(sys.argv[1])\n"
        "options = BackendOptions(backend='tensorrt')\n"
        "backend = TensorRtBackend(bundle, options, memory=None, gpu=None, plugin_digest=None)\n"
        "print(in_child(lambda: backend.check((), 2, 2, 0)))\n"
        "print(in_child(lambda: backend.session(bundle.manifest.stages[0], 1)))\n"
    )
    lines = output(code, mini_bundle).splitlines()
    assert lines[1] == lines[3] == "7"
    assert all(line.startswith("2 pipeline: was opened in process ") for line in lines[::2])


def test_a_pipeline_that_has_not_run_yet_works_in_a_forked_process() -> None:
    code = _PIPELINE + "print(in_child(lambda: print(pipeline(photos).depth.shape)))\n"
    assert output(code, DEMO).splitlines() == ["(2, 112, 112)", "7"]


_NO_THREADS = """
import os, resource, sys
from pathlib import Path
import concurrent.futures.thread, encodings.idna, locale
import numpy as np
import covis
from covis.engines.bundle.bundle import open_bundle
from covis.runtime.backends.ort_session import Session, SessionOptions

bundle = open_bundle(sys.argv[1])
stage = bundle.manifest.stage("encoder")

def loaded(threads):
    return Session(bundle.graph(stage), stage, SessionOptions(threads=threads))

session = loaded(1)
images = np.ones((1, 3, 14, 28), np.float32)
if os.geteuid() == 0:  # root may start as many as it likes
    os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
for call in (
    lambda: session.run({"images": images}, {"patch_tokens": np.empty((1, 4), np.float32)}),
    lambda: loaded(4),
):
    try:
        call()
        print("done")
    except covis.CovisError as error:
        print(error.code, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sets Linux's limit of threads")
def test_no_threads_left() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # another user reads it
        run, load = output(_NO_THREADS, write_bundle(Path(folder) / "bundle")).splitlines()
    for line in (run, load):
        assert line.startswith("3 the system starts no more threads (")
        assert "ulimit -u" in line and "--threads" in line
