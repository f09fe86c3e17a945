"""Memory of the stages, on the host or on a GPU, and clocks that time them."""
