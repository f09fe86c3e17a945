"""Read small JSON files that a user names on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from covis.engines.errors import user_error
from covis.engines.limits import JSON_FILE


def read_json(path: Path, hint: str) -> Any:
    """Read and parse a JSON file.

    Args:
        path: A regular file, because a pipe or a device could be read for ever.
        hint: Hint of the error if the file is no JSON.

    Raises:
        CovisError: the file cannot be read, is no regular file, is larger than 64 MiB, or is no
            JSON (exit code 2).
    """
    try:
        if path.exists() and not path.is_file():
            raise user_error("is no regular file", where=path, hint="check the path")
        if path.stat().st_size > JSON_FILE.most:
            raise user_error(f"is larger than {JSON_FILE}", where=path, hint="check the path")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise user_error(
            f"cannot be read ({error.strerror})", where=path, hint="check the path"
        ) from error
    except (ValueError, RecursionError) as error:
        raise user_error(f"is not JSON ({error})", where=path, hint=hint) from error
