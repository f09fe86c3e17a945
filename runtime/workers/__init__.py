"""Crews of workers for independent tasks: processes on this machine, or actors on a Ray cluster."""
