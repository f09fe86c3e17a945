"""Memory that stages work in, on the host or on a GPU, and clocks that time it."""
