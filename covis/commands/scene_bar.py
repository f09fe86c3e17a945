"""Progress bar of a command that goes through many scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def scene_bar(console: Any, total: int, done: int) -> Iterator[Callable[[str], None]]:
    """Show a progress bar of scenes, with the remaining time and the name of the last one.

    Args:
        console: Console of rich, on stderr.
        total: Number of scenes.
        done: Number of scenes that are done already.

    Yields:
        A function to call with the name of each scene that ends.
    """
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from covis.engines.errors import printable

    columns = (
        TextColumn("scenes"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("", total=total, completed=done)

        def advance(name: str) -> None:
            bars.update(task, advance=1, description=escape(printable(name)))

        yield advance
