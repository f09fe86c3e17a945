"""Cache of plans on disk: named by the digest of their inputs, built once, verified before use."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from covis.engines.errors import CovisError, environment_error
from covis.engines.system.atomic import atomic_file, check_file_target
from covis.engines.tensorrt.plans.record import PlanInputs, PlanRecord, read_record
from covis.engines.tensorrt.plans.trust import check_digest, opened_plan, remember_plan

if TYPE_CHECKING:
    from filelock import BaseFileLock

RECORD_SUFFIX: Final = ".plan.json"
LOCKS: Final = ".locks"
_KEY_LETTERS: Final = 24  # 96 bits of the key: enough for a file name, and the record has the rest

Write = Callable[[bytes | memoryview], object]
"""Writes the next piece of a plan."""

OnProgress = Callable[[str], None]
"""Called with one line of text for the user."""


@dataclass(frozen=True)
class EngineInfo:
    """Properties of a built engine.

    Attributes:
        layers: Layer information of the engine inspector, as JSON; empty if there is none.
        activation_memory: Device memory in bytes that an execution context needs.
    """

    layers: str = ""
    activation_memory: int = 0


Examine = Callable[[Path], EngineInfo]
"""Inspects a written plan; raises if its engine does not compute what was requested."""


class PlanCache:
    """A folder of plans and their records.

    Several processes may use it at once. Locks are the system's own (`flock`), which releases them
    when a process ends, however it ends.
    """

    def __init__(self, folder: Path, on_progress: OnProgress = lambda text: None) -> None:
        self.folder = folder
        self._on_progress = on_progress

    def stem(self, inputs: PlanInputs) -> Path:
        """Return the path of a plan's files without their suffixes."""
        return self.folder / f"{inputs.stage}-{inputs.key()[:_KEY_LETTERS]}"

    def find(self, inputs: PlanInputs) -> PlanRecord | None:
        """Return the record of a plan that is present and intact, else None.

        A damaged plan or record counts as absent, and is reported.
        """
        path = self._path(inputs, RECORD_SUFFIX)
        if not path.is_file():
            return None
        try:
            record = read_record(path)
        except CovisError as error:
            self._on_progress(f"built anew: {error.where}: {error.what}")
            return None
        if record.key() != inputs.key():
            self._on_progress(f"built anew: {path} is the record of another plan")
            return None
        try:
            with opened_plan(record, self.folder) as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            check_digest(digest, record, self.folder)
        except CovisError as error:
            self._on_progress(f"built anew: {error.where}: {error.what}")
            return None
        return record

    def get(
        self,
        inputs: PlanInputs,
        build: Callable[[Write], object],
        examine: Examine = lambda plan: EngineInfo(),
        *,
        force: bool = False,
    ) -> tuple[PlanRecord, bool]:
        """Return the plan of these inputs, and build it if the cache does not contain it.

        If several processes request the same plan at once, one builds and the others wait for it;
        if it fails or is killed, the next one builds.

        Args:
            inputs: Everything that determines the plan.
            build: Writes the plan's bytes in pieces; called while the plan is locked.
            examine: Inspects the written plan before it gets its name, and may reject it.
            force: Build even if the cache contains the plan.

        Returns:
            The record, and whether it was built by this call.

        Raises:
            CovisError: the folder cannot be written, or the disk is full; nothing is left behind.
        """
        if not force and (found := self.find(inputs)) is not None:
            return found, False
        with self._locked(self.stem(inputs).name):
            if not force and (found := self.find(inputs)) is not None:
                return found, False
            plan = self._path(inputs, ".plan")
            record = write_plan(plan, inputs, build, examine, self._on_progress)
            return record, True

    def _path(self, inputs: PlanInputs, suffix: str) -> Path:
        stem = self.stem(inputs)
        return stem.with_name(stem.name + suffix)

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        lock = file_lock(self.folder / LOCKS / f"{name}.lock")
        waiting = f"another process is building {name}; waiting for it"
        with locked(lock, lambda: self._on_progress(waiting)):
            yield


def write_plan(
    plan: Path,
    inputs: PlanInputs,
    build: Callable[[Write], object],
    examine: Examine,
    on_progress: OnProgress = lambda text: None,
) -> PlanRecord:
    """Write a plan, its layer information, and last its record; all of them or nothing.

    The record's name is the plan's with `.json` appended. The caller must have locked the plan.

    Raises:
        CovisError: the folder cannot be written, or the disk is full.
    """
    record = plan.with_name(plan.name + ".json")
    layers = plan.with_name(plan.name + ".layers")
    for path in (plan, record, layers):
        check_file_target(path)  # their names are longer than the plan's, which takes hours
    digest, size, started = hashlib.sha256(), 0, time.monotonic()
    with atomic_file(plan) as stream:

        def write(piece: bytes | memoryview) -> None:
            nonlocal size
            stream.write(piece)
            digest.update(piece)
            size += len(piece)

        build(write)
        seconds = time.monotonic() - started
        stream.flush()
        info = examine(Path(stream.name))
        # The old record is removed just before the new plan gets its name, and the new record is
        # written last, so that at no time a record describes another plan than the one beside it.
        record.unlink(missing_ok=True)
    layer_data = info.layers.encode()
    if layer_data:
        with atomic_file(layers) as stream:
            stream.write(layer_data)
    result = PlanRecord(
        **dict(inputs),
        file=plan.name,
        size=size,
        sha256=digest.hexdigest(),
        layers=(layers.name, hashlib.sha256(layer_data).hexdigest()) if layer_data else None,
        activation_memory=info.activation_memory,
        build_seconds=round(seconds, 3),
    )
    with atomic_file(record) as stream:
        stream.write(result.model_dump_json(indent=1).encode() + b"\n")
    if not remember_plan(result.sha256):
        on_progress(
            "your list of own plans cannot be written: "
            f"run this one with --trust-plan {result.sha256}"
        )
    return result


def file_lock(path: Path) -> BaseFileLock:
    """Return a lock between processes on this machine; its folder is created if it is missing.

    Raises:
        CovisError: the folder cannot be created.
    """
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    return FileLock(path)


@contextlib.contextmanager
def locked(lock: BaseFileLock, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Run the block under a lock; `on_wait` is called once if another process has it.

    Raises:
        CovisError: the lock's file cannot be opened: a read-only folder, or no rights.
    """
    from filelock import Timeout

    path = Path(lock.lock_file)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire()
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    try:
        yield
    finally:
        lock.release()


def _unwritable(folder: Path, error: OSError) -> CovisError:
    return environment_error(
        f"cannot be written ({error.strerror or error})",
        where=folder,
        hint="check rights and free space, or choose another folder with --cache",
    )
