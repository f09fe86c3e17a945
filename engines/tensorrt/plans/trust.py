"""The rule that trusts a plan: which plans may be deserialised here, and which never.

A plan is executable code and TensorRT does not verify it. A plan is therefore deserialised only if

1. it was built from this bundle's graph and weights, by this version of TensorRT;
2. plugin, GPU and driver are those it was built for, or the user trusts its digest;
3. its digest is one that this user built (see `ledger`) or trusts;
4. size and sha256 of its bytes are those of its record.

`accepted` decides 1 and 2; `read_plan` decides 3 and 4. A digest is trusted with `--trust-plan`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum
from io import BufferedReader
from pathlib import Path

from covis.engines.bundle.bundle import Bundle
from covis.engines.errors import environment_error, user_error
from covis.engines.limits import OWN_PLANS
from covis.engines.system.gpu import Gpu
from covis.engines.system.regular import open_regular, read_regular, unreadable
from covis.engines.tensorrt.plans.record import BUILD_HINT, PlanRecord

LEDGER = "own-plans.txt"


class Mismatch(Enum):
    """A property in which a plan differs from the bundle or the machine that should run it."""

    GRAPH = "graph"
    WEIGHTS = "weights"
    TENSORRT = "TensorRT"
    PLUGIN = "plugin"
    GPU = "GPU"
    DRIVER = "driver"

    @property
    def trust_overrides(self) -> bool:
        """A plan with this mismatch may run if the user trusts its digest.

        A plan of another graph or other weights computes something else than the bundle, and
        another TensorRT cannot deserialise it: trust does not help there.
        """
        return self in (Mismatch.PLUGIN, Mismatch.GPU, Mismatch.DRIVER)


@dataclass(frozen=True)
class Host:
    """The software and hardware that would run a plan.

    Attributes:
        gpu: GPU to run on, with its driver.
        tensorrt: Full version of the `tensorrt` module in use, e.g. "10.15.1.29".
        plugin: sha256 of the plugin library in use; None without one.
    """

    gpu: Gpu
    tensorrt: str
    plugin: str | None


def mismatches(record: PlanRecord, bundle: Bundle, host: Host) -> tuple[Mismatch, ...]:
    """List every mismatch of a plan, those that trust cannot override first."""
    manifest = bundle.manifest
    digests = {file.path: file.sha256 for file in manifest.files}
    here, there = host.gpu.compute_capability, record.compute_capability
    portable = {
        "none": False,
        "ampere+": here >= (8, 0),
        "sameComputeCapability": here == there,
    }[record.options.hardware_compatibility]
    driver = (host.gpu.cuda, host.gpu.driver_branch)
    differs = {
        Mismatch.GRAPH: record.graph != digests[manifest.stage(record.stage).graph],
        Mismatch.WEIGHTS: record.weights != digests[manifest.weights.file],
        Mismatch.TENSORRT: record.tensorrt != host.tensorrt,
        Mismatch.PLUGIN: record.plugin is not None and record.plugin != host.plugin,
        Mismatch.GPU: record.gpu != host.gpu.name and not portable,
        Mismatch.DRIVER: (record.cuda, record.driver_branch) != driver,
    }
    return tuple(mismatch for mismatch, found in differs.items() if found)


def accepted(
    record: PlanRecord, found: Collection[Mismatch], trusted: Collection[str] = ()
) -> bool:
    """Return True if a plan may be used in spite of its mismatches.

    Args:
        record: Record of the plan.
        found: All of its mismatches, from `mismatches`.
        trusted: sha256 digests of plans that the user trusts.
    """
    if not found:
        return True
    return record.sha256 in trusted and all(mismatch.trust_overrides for mismatch in found)


def explain(mismatch: Mismatch, record: PlanRecord, host: Host) -> str:
    """Describe a mismatch for an error message."""
    gpu = host.gpu
    return {
        Mismatch.GRAPH: "it was built from another graph",
        Mismatch.WEIGHTS: "it was built from other weights",
        Mismatch.TENSORRT: f"it was built by TensorRT {record.tensorrt}, here is {host.tensorrt}",
        Mismatch.PLUGIN: "it was built with another version of the plugin library",
        Mismatch.GPU: f"it was built for {record.gpu}, here is {gpu.name}",
        Mismatch.DRIVER: f"it was built with driver {record.driver_branch} (CUDA {record.cuda}), "
        f"here is {gpu.driver_branch} (CUDA {gpu.cuda})",
    }[mismatch]


def read_plan(record: PlanRecord, folder: Path, trusted: Collection[str] = ()) -> memoryview:
    """Read a plan, after checking that the user trusts it and that its bytes are intact.

    Args:
        record: Record of the plan, from `find_plan` or `records`.
        folder: Folder that contains record and plan.
        trusted: sha256 digests that the user trusts, besides the plans built by this user.

    Returns:
        A read-only view of the bytes. They were hashed after they were read, so a later change of
        the file cannot bypass the check.

    Raises:
        CovisError: The plan is missing, its size or digest differ from the record, or this user
            neither built nor trusts it (exit code 2).
    """
    path = folder / record.file
    if record.sha256 not in trusted and record.sha256 not in own_plans():
        raise user_error(
            "was not built by this user, and a plan is executable code",
            where=path,
            hint=f"{BUILD_HINT}, or give --trust-plan {record.sha256}",
        )
    with opened_plan(record, folder) as stream:
        data = stream.read(record.size)
    check_digest(hashlib.sha256(data).hexdigest(), record, folder)
    return memoryview(data)


@contextlib.contextmanager
def opened_plan(record: PlanRecord, folder: Path) -> Iterator[BufferedReader]:
    """Open the file of a plan, which must be a regular file of the size in its record.

    Raises:
        CovisError: there is no such file (exit code 2), or it cannot be read (3).
    """
    path = folder / record.file
    descriptor = open_regular(path, hint=BUILD_HINT)
    try:
        with os.fdopen(descriptor, "rb") as stream:
            size = os.fstat(descriptor).st_size
            if size != record.size:
                raise user_error(
                    f"has {size:,} bytes where its record says {record.size:,}",
                    where=path,
                    hint=BUILD_HINT,
                )
            yield stream
    except OSError as error:
        raise unreadable(path, error, BUILD_HINT) from error


def check_digest(sha256: str, record: PlanRecord, folder: Path) -> None:
    """Compare the digest of a plan's bytes with its record.

    Raises:
        CovisError: they differ (exit code 2).
    """
    if sha256 != record.sha256:
        raise user_error(
            "is not what was built (sha256 differs)",
            where=folder / record.file,
            hint=BUILD_HINT,
        )


def ledger() -> Path:
    """Return the user's list of own plans: one sha256 a line, in the user's state folder."""
    import platformdirs

    return platformdirs.user_state_path("covis") / LEDGER


def own_plans() -> frozenset[str]:
    """Return the digests of the plans that this user built on this machine.

    The set is empty if there is no list yet.

    Raises:
        CovisError: The list belongs to another user, or others may write it (exit code 3).
    """
    path = ledger()
    try:
        facts = path.stat()
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise environment_error(
            f"cannot be read ({error.strerror or error})", where=path, hint="check rights"
        ) from error
    data = read_regular(path, OWN_PLANS, hint="remove it", follow=True)
    if os.name == "posix" and (facts.st_uid not in (0, os.geteuid()) or facts.st_mode & 0o022):
        raise environment_error(
            "can be written by others, so it cannot say which plans are yours",
            where=path,
            hint="chmod 600 it, or remove it",
        )
    return frozenset(line for line in data.decode("ascii", "replace").split() if len(line) == 64)


def remember_plan(sha256: str) -> bool:
    """Add the digest of a plan that was just built; return False if the list cannot be written."""
    path = ledger()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A single short write to a file in append mode, so concurrent builds do not interleave.
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, f"{sha256}\n".encode())
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError:
        return False
    return True
