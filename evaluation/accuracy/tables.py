"""Table of results for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from covis.engines.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

# Key, heading and format of each column.
_COLUMNS = (
    ("views", "views", "d"),
    ("auc30", "AUC@30", ".4f"),
    ("auc15", "@15", ".4f"),
    ("auc5", "@5", ".4f"),
    ("auc3", "@3", ".4f"),
    ("ate", "ATE", ".4g"),
    ("rpe_translation", "RPE t", ".4g"),
    ("rpe_rotation", "RPE r", ".3g"),
    ("abs_rel", "AbsRel", ".4f"),
    ("delta_1.25", "<1.25", ".4f"),
    ("accuracy", "acc", ".4g"),
    ("completeness", "comp", ".4g"),
    ("normals", "normals", ".3f"),
    ("chamfer", "chamfer", ".4g"),
    ("relative_blocks", "pairs kept", ".1%"),
    ("attention_work", "attention", ".1%"),
    ("seconds", "s", ".2f"),
)


def table(report: Mapping[str, Any], most_rows: int = 40) -> Table:
    """Build a table with a row per scene, or per group of many scenes, and the summary.

    Args:
        report: Report of `Results.finish`.
        most_rows: Largest number of scenes to list one by one.
    """
    from rich.table import Table
    from rich.text import Text

    summary = report["summary"]
    rows: list[tuple[str, Mapping[str, Any]]] = [
        (str(record["scene"]), record) for record in report["scenes"]
    ]
    if len(rows) > most_rows:
        rows = list(summary.get("groups", {}).items())
    columns = [
        c for c in _COLUMNS if any(r.get(c[0]) is not None for _, r in [*rows, ("", summary)])
    ]
    out = Table("scene", *(heading for _, heading, _ in columns), box=None)
    for column in out.columns[1:]:
        column.justify = "right"
    count = summary["scenes"]
    for name, record in [*rows, (f"all ({count})", summary)]:
        cells = [_cell(record.get(key), form) for key, _, form in columns]
        out.add_row(Text(printable(name)), *cells, style="bold" if record is summary else None)
    return out


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)
