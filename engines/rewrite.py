"""A new manifest for a bundle on disk: in place whole, or not at all."""

from __future__ import annotations

from covis.engines.atomic_file import atomic_file
from covis.engines.bundle import MANIFEST, Bundle
from covis.engines.manifest import Manifest


def rewrite_manifest(bundle: Bundle, manifest: Manifest) -> Bundle:
    """Replace the manifest of a bundle, and nothing else of it; an interruption leaves the old one.

    The bundle's digest changes with it: what was measured or built for the old manifest is known
    by the old digest.

    Raises:
        CovisError: the folder cannot be written.
    """
    target = bundle.path / MANIFEST
    with atomic_file(target, keep_mode=True) as stream:
        stream.write((manifest.model_dump_json(indent=1) + "\n").encode())
    return Bundle(bundle.path, manifest)
