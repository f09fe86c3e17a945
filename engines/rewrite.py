"""A new manifest for a bundle on disk: in place whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from covis.engines.bundle import MANIFEST, Bundle
from covis.engines.errors import environment_error
from covis.engines.manifest import Manifest


def rewrite_manifest(bundle: Bundle, manifest: Manifest) -> Bundle:
    """Replace the manifest of a bundle, and nothing else of it; an interruption leaves the old one.

    The bundle's digest changes with it: what was measured or built for the old manifest is known
    by the old digest.

    Raises:
        CovisError: the folder cannot be written.
    """
    target = bundle.path / MANIFEST
    scratch: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=".manifest.", suffix=".partial", dir=bundle.path)
        scratch = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(manifest.model_dump_json(indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        scratch.chmod(target.stat().st_mode & 0o777)  # mkstemp's own is for the user alone
        scratch.replace(target)
        scratch = None
    except OSError as error:
        raise environment_error(
            f"cannot be written ({error.strerror or error})",
            where=target,
            hint="check free space and rights",
        ) from error
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)
    return Bundle(bundle.path, manifest)
