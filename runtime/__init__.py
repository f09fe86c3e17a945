"""From photos to a scene and its files: images, sessions, the pipeline, writers; no torch."""
