"""The operating system: atomic files, interrupts, native libraries, GPUs, package versions."""
