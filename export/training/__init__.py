"""Training of covis-mini, the small VGGT that ships with the package, on synthetic scenes."""
