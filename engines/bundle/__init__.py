"""Bundles on disk: manifest, verification, pixel rule and patch order."""
