"""Options of the workers of a command, as tyro reads them."""

from __future__ import annotations

from typing import Annotated

import tyro

from covis.commands.arguments import arguments
from covis.runtime.workers.options import WorkerOptions

_Workers = arguments("_Workers", WorkerOptions, defaults={"ray": "none: processes on this machine"})

WorkerArguments = Annotated[
    WorkerOptions, tyro.conf.arg(constructor=_Workers), tyro.conf.OmitArgPrefixes
]
"""Number and place of the workers."""
