"""Bundles on disk: the manifest, the checks that open one, and the writer that finishes one."""
