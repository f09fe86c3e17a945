"""Benchmarks of a bundle: measurement and the record of one."""
