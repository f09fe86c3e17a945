"""The project's CUDA kernels for torch users, called through the C ABI without TensorRT.

One file an op, as in `plugins/`: `attention`, `select`, `farthest`, `saliency`. `binding` loads the
library and launches, `dispatch` chooses between the kernels and torch code.
"""
