"""The kernel checks as units: `-m tests.gpu.kernel_units --library FILE --records FILE NAME...`."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# What torch's deterministic mode wants of cuBLAS, before torch is there.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

from covis.export.ops.cuda.attention import Kernel, Precision
from covis.export.ops.cuda.binding import load_kernels
from tests.gpu import checks, selector_checks
from tests.gpu.checks import Subject
from tests.gpu.units import WrongError, run_units

Record = dict[str, Any]


def subjects_of(library: ctypes.CDLL, *, hopper: bool) -> list[Subject]:
    """Every kernel and precision that this GPU has."""
    portable = Subject(library, "portable")
    if not hopper:
        return [portable]
    kernels: tuple[Kernel, ...] = ("hopper", "hopper-polynomial")
    precisions: tuple[Precision, ...] = ("full", "fp8")
    return [Subject(library, k, p) for p in precisions for k in kernels] + [portable]


def kernel_units(library: ctypes.CDLL, *, hopper: bool) -> dict[str, Callable[[], list[Record]]]:
    """Every check of every kernel that this GPU has, by name: quick ones, then by worth.

    Each gives its records, or raises `WrongError` with them where one is not as it must be.
    """
    subjects = subjects_of(library, hopper=hopper)
    seed = int(time.time())
    found: dict[str, Callable[[], Record | list[Record]]] = {
        "refusals": lambda: checks.check_refusals(subjects[0]),
    }
    for s in subjects:
        found[f"strides {s.name}"] = partial(checks.check_strides, s)
    for s in subjects:
        found[f"vectors {s.name}"] = partial(check_vectors, s, seed)
    for s in subjects:
        found[f"graph {s.name}"] = partial(checks.check_graph, s)
        found[f"nan {s.name}"] = partial(checks.check_nan, s)
    found["permission"] = lambda: checks.check_permission(library)
    found["selectors"] = lambda: selector_checks.check_selectors(library)
    for s in subjects[: 3 if hopper else 1 : 2]:  # one of each precision
        found[f"far offsets {s.name}"] = partial(checks.check_far_offsets, s)
    return {name: partial(judged, check) for name, check in found.items()}


def check_vectors(subject: Subject, seed: int) -> list[Record]:
    """Every case by one kernel, with the seed that its tokens came from."""
    return [{"case": "seed", "seed": seed, "ok": True}, *checks.check_vectors([subject], seed)]


def judged(check: Callable[[], Record | list[Record]]) -> list[Record]:
    """A check's records, once the device is done with it.

    New tensors, workspaces too, are filled with NaN or ones: new memory never reads as zeros.

    Raises:
        WrongError: one of the records is not as it must be.
    """
    torch.cuda.empty_cache()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        found = check()
        torch.cuda.synchronize()
    finally:
        torch.use_deterministic_algorithms(False)
    records = found if isinstance(found, list) else [found]
    if not all(record["ok"] for record in records):
        raise WrongError(sorted(records, key=lambda record: bool(record["ok"])))
    return records


def probe(library: Path) -> Record:
    """The device and the names of its checks, for JSON; `cuda_device` None without a device."""
    if not torch.cuda.is_available():
        return {"cuda_device": None, "reason": "torch sees no CUDA device"}
    capability = torch.cuda.get_device_capability()
    units = kernel_units(load_kernels(library), hopper=capability == (9, 0))
    return {
        "cuda_device": torch.cuda.get_device_name(),
        "compute_capability": capability,
        "cuda": torch.version.cuda,
        "checks": list(units),
    }


def main() -> None:
    """Run the named checks, and write down how each ended; or tell what could be checked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--probe", action="store_true")
    parser.add_argument("--records", type=Path)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    if options.probe:
        print(json.dumps(probe(options.library)))
        return
    hopper = torch.cuda.get_device_capability() == (9, 0)
    units = kernel_units(load_kernels(options.library), hopper=hopper)
    run_units(units, options.names, options.records)


if __name__ == "__main__":
    main()
