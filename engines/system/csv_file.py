"""CSV text in which no cell is a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from covis.engines.errors import printable

# https://owasp.org/www-community/attacks/CSV_Injection; the wide forms count in some languages.
_FORMULA: Final = ("=", "+", "-", "@", "＝", "＋", "－", "＠")


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    r"""Return a table as CSV, with a header.

    A spreadsheet runs a cell that begins with `=`, `+`, `-` or `@` as a formula. Text that does so
    gets an apostrophe in front, which a spreadsheet does not show. Control characters, which could
    begin a row or be dropped before a formula, are escaped (`\n`). Numbers stay as they are.

    Args:
        columns: Columns to write, in this order.
        rows: A value for each column; a missing one or None gives an empty cell, others than
            these columns are left out.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_defused(row.get(column)) for column in columns] for row in rows)
    return out.getvalue()


def _defused(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
