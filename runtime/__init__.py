"""Runtime from photos to a scene and its files: photos, backends, pipeline, writers; no torch."""
