"""All checks that need a GPU, and the benchmark, in one command.

    python tests/gpu/run.py --out DIR [--library build/cuda/libcovis_kernels.so]

Needs torch, numpy and the built library; compute-sanitizer is taken from the path or from where
`make plugins` put it. Writes checks.json, sanitizer.json and attention.json to
DIR; the exit code is the number of failed checks (at most 100). Fits in 8 minutes on one H200.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SANITIZERS = ("memcheck", "racecheck")
BENCHMARK_SECONDS = 220
SANITIZER_SECONDS = 60


def machine() -> dict[str, Any]:
    """GPU, driver, versions and commit, for every result file."""
    import torch

    from benchmarks.gpu_timing import commit, nvidia_smi

    return {
        "gpu": torch.cuda.get_device_name(),
        "nvidia_smi": nvidia_smi("name,driver_version,clocks.sm,clocks.max.sm,power.limit"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "commit": commit(ROOT),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def sanitize(library: Path, tool: str) -> dict[str, Any]:
    """compute-sanitizer over a small set; it counts only if kernels of ours were seen."""
    wheel = ROOT / ".venv/cuda/nvidia/cu13/compute-sanitizer/compute-sanitizer"  # make plugins
    program = shutil.which("compute-sanitizer") or (str(wheel) if wheel.is_file() else None)
    if program is None:
        return {"tool": tool, "ok": False, "skipped": "compute-sanitizer is not installed"}
    command = [program, "--tool", tool, "--error-exitcode", "9", "--print-level", "info"]
    if tool == "memcheck":
        command += ["--leak-check", "no"]
    command += [sys.executable, "-m", "tests.gpu.small", str(library)]
    # Without torch's caching each tensor is an allocation, whose bounds the sanitizer knows.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *options],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=SANITIZER_SECONDS,
        )

    try:
        done = run()
        # A read behind the level map must be seen, or nothing was looked at.
        fault = run("--fault") if tool == "memcheck" else None
    except subprocess.TimeoutExpired:
        return {"tool": tool, "ok": False, "skipped": f"not done in {SANITIZER_SECONDS} s"}
    launches = done.stdout.count("launched ")
    clean = "ERROR SUMMARY: 0 errors" in done.stdout or "0 hazards" in done.stdout
    seen = fault is None or ("measure_rows" in fault.stdout and fault.returncode != 0)
    return {
        "tool": tool,
        "ok": done.returncode == 0 and launches > 0 and clean and seen,
        "launches": launches,
        "fault_seen": None if fault is None else seen,
        "returncode": done.returncode,
        "tail": (done.stdout + done.stderr)[-3000:],
    }


def main() -> int:
    """Run everything; returns the number of failures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--library", type=Path, default=None)
    parser.add_argument("--no-benchmark", action="store_true")
    parser.add_argument("--no-sanitizer", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before torch: checks.run_all

    import torch

    from covis.export.ops import cuda
    from tests.gpu import checks, engines

    library = options.library or ROOT / "build" / "cuda" / cuda.LIBRARY
    if not torch.cuda.is_available():
        print("no CUDA device: nothing was checked")
        return 100
    loaded = cuda.load_kernels(library)
    about = machine()
    hopper = torch.cuda.get_device_capability() == (9, 0)
    started = time.monotonic()
    records = checks.run_all(loaded, hopper=hopper)
    failed = [r for r in records if not r["ok"]]
    (options.out / "checks.json").write_text(
        json.dumps({**about, "seconds": time.monotonic() - started, "checks": records}, indent=1)
    )
    print(f"checks: {len(records) - len(failed)} of {len(records)} passed", flush=True)
    for record in failed[:20]:
        print("FAILED", json.dumps(record), flush=True)

    if not options.no_sanitizer:
        reports = [sanitize(library, tool) for tool in SANITIZERS]
        (options.out / "sanitizer.json").write_text(
            json.dumps({**about, "runs": reports}, indent=1)
        )
        for report in reports:
            print(report["tool"], "ok" if report["ok"] else "FAILED", report.get("skipped", ""))
        failed += [r for r in reports if not r["ok"] and "skipped" not in r]

    try:
        failed += engines.failures(options.out)
    except Exception as error:  # an install without all that engines need: the rest still counts
        print(f"engines: FAILED {type(error).__name__}: {error}", flush=True)
        failed.append({"check": "engines", "ok": False})
    if not options.no_benchmark:
        failed += benchmark(options.out / "attention.json", library)
    return min(len(failed), 100)


def benchmark(out: Path, library: Path) -> list[dict[str, Any]]:
    """The benchmark in a process of its own; a failed record where it did not end well."""
    script = ROOT / "benchmarks" / "attention_gpu.py"
    command = [sys.executable, str(script), "--out", str(out), "--library", str(library)]
    command += ["--seconds", str(BENCHMARK_SECONDS)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    try:
        code = subprocess.run(
            command, cwd=ROOT, check=False, timeout=BENCHMARK_SECONDS + 60, env=environment
        ).returncode
    except subprocess.TimeoutExpired:
        code = -1
        print(f"benchmark: stopped; {out.name} holds what was done", flush=True)
    return [] if code == 0 else [{"check": "benchmark", "returncode": code, "ok": False}]


if __name__ == "__main__":
    sys.exit(main())
