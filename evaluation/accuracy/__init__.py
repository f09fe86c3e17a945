"""Accuracy of a bundle on a dataset: jobs, workers, scores, resumable results, tables."""
