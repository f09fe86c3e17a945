"""Plans on disk, named by what went into them: built once, whole or absent, checked before use."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from covis.engines.bundle.bundle import sha256_of
from covis.engines.errors import CovisError, environment_error
from covis.engines.system.atomic import atomic_file, remove_partials
from covis.engines.tensorrt.plans.record import PlanInputs, PlanRecord, read_record
from covis.engines.tensorrt.plans.trust import remember_plan

if TYPE_CHECKING:
    from filelock import BaseFileLock

RECORD_SUFFIX: Final = ".plan.json"
LOCKS: Final = ".locks"
_KEY_LETTERS: Final = 24  # 96 bits of the key: enough for a file name, and the record has the rest

Write = Callable[[bytes | memoryview], object]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Built:
    """What is known of a plan besides its bytes.

    Attributes:
        layers: the engine inspector's layer information as JSON; empty where there is none.
        activation_memory: bytes of device memory that a context needs.
    """

    layers: str = ""
    activation_memory: int = 0


Examine = Callable[[Path], Built]
"""Looks at a written plan; raises where it is not what was asked for."""


class PlanCache:
    """A folder of plans and their records.

    Several processes may use it at once. Locks are the system's own (`flock`), so they go with the
    process that held them, however it ends.
    """

    def __init__(self, folder: Path, tell: Tell = lambda text: None) -> None:
        self.folder = folder
        self._tell = tell

    def stem(self, inputs: PlanInputs) -> Path:
        """The path of a plan's files without their suffixes."""
        return self.folder / f"{inputs.stage}-{inputs.key()[:_KEY_LETTERS]}"

    def find(self, inputs: PlanInputs) -> PlanRecord | None:
        """The record of a plan that is there and whole, or None.

        A plan or record that is damaged is as good as none, and is told.
        """
        path = self._path(inputs, RECORD_SUFFIX)
        if not path.is_file():
            return None
        try:
            record = read_record(path)
        except CovisError as error:
            self._tell(f"built anew: {error}")
            return None
        plan = self.folder / record.file
        if record.key() != inputs.key():
            self._tell(f"built anew: {path} is the record of another plan")
        elif not plan.is_file() or plan.stat().st_size != record.size:
            self._tell(f"built anew: {plan} is missing or cut off")
        elif sha256_of(plan) != record.sha256:
            self._tell(f"built anew: {plan} is not what was built (sha256 differs)")
        else:
            return record
        return None

    def get(
        self,
        inputs: PlanInputs,
        build: Callable[[Write], object],
        examine: Examine = lambda plan: Built(),
        *,
        force: bool = False,
    ) -> tuple[PlanRecord, bool]:
        """The plan of these inputs, built if it is not there yet.

        Of several processes that ask for the same plan at once, one builds and the others wait for
        it; if it fails or is killed, the next one builds.

        Args:
            inputs: what the plan is made from.
            build: writes the plan's bytes in pieces; run under the lock of this plan.
            examine: looks at the written plan before it gets its name, and may refuse it.
            force: build even where the plan is there.

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
            return write_plan(plan, inputs, build, examine, self._tell), True

    def _path(self, inputs: PlanInputs, suffix: str) -> Path:
        stem = self.stem(inputs)
        return stem.with_name(stem.name + suffix)

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        lock = file_lock(self.folder / LOCKS / f"{name}.lock")
        with held(lock, lambda: self._tell(f"another process is building {name}; waiting for it")):
            yield


def write_plan(
    plan: Path,
    inputs: PlanInputs,
    build: Callable[[Write], object],
    examine: Examine,
    tell: Tell = lambda text: None,
) -> PlanRecord:
    """Write a plan, what the inspector tells of it, and last its record; all of it or nothing.

    The record's name is the plan's with `.json` behind; the caller holds the lock.

    Raises:
        CovisError: the folder cannot be written, or the disk is full.
    """
    record = plan.with_name(plan.name + ".json")
    layers = plan.with_name(plan.name + ".layers")
    for path in (plan, record, layers):
        remove_partials(path)
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
        built = examine(Path(stream.name))
        # The old record goes just before the new plan comes, and the new one comes last: at no
        # time does a record stand beside a plan that is not its own.
        record.unlink(missing_ok=True)
    told = built.layers.encode()
    if told:
        with atomic_file(layers) as stream:
            stream.write(told)
    made = PlanRecord(
        **dict(inputs),
        file=plan.name,
        size=size,
        sha256=digest.hexdigest(),
        layers=(layers.name, hashlib.sha256(told).hexdigest()) if told else None,
        activation_memory=built.activation_memory,
        build_seconds=round(seconds, 3),
    )
    with atomic_file(record) as stream:
        stream.write(made.model_dump_json(indent=1).encode() + b"\n")
    if not remember_plan(made.sha256):
        tell(
            "your list of own plans cannot be written: "
            f"run this one with --trust-plan {made.sha256}"
        )
    return made


def file_lock(path: Path) -> BaseFileLock:
    """A lock between processes on this machine; its folder is made where it is missing.

    Raises:
        CovisError: the folder cannot be made.
    """
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    return FileLock(path)


@contextlib.contextmanager
def held(lock: BaseFileLock, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock; `waiting` is told once where someone else has it.

    Raises:
        CovisError: the lock's file cannot be opened: a read-only folder, or no rights.
    """
    from filelock import Timeout

    path = Path(lock.lock_file)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting()
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
