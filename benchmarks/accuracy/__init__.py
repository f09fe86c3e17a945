"""Parts of `benchmarks/accuracy_mini.py`: scenes, settings, measurement, statistics, page."""
