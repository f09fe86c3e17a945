"""Options of a command that shares out its work: local processes, or a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass

from covis.engines.errors import user_error


@dataclass(frozen=True)
class WorkerOptions:
    """Number and place of the workers.

    Attributes:
        workers: Number of processes on this machine, or of actors with --ray, where 0 fills the
            cluster.
        ray: Address of a Ray cluster to run on: "host:port", "auto" or "local".
    """

    workers: int = 1
    ray: str | None = None

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise user_error(f"{self.workers} is negative", where="--workers")
        if self.workers == 0 and self.ray is None:
            raise user_error("0 is below 1", where="--workers", hint="use 1 or more")

    @property
    def alone(self) -> bool:
        """True if this process does the work itself."""
        return self.workers == 1 and self.ray is None
