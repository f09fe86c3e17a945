"""Properties of the GPU and its driver on which a plan depends."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from covis.engines.errors import environment_error, first_line, printable, user_error


@dataclass(frozen=True)
class Gpu:
    """A GPU and the driver that runs it.

    Attributes:
        name: Name of the GPU as the driver reports it, e.g. "NVIDIA H200".
        compute_capability: Compute capability, e.g. (9, 0).
        memory: Total memory in bytes.
        driver: Version of the driver, e.g. "580.95.05".
        cuda: Newest CUDA version that this driver supports, e.g. "13.0".
    """

    name: str
    compute_capability: tuple[int, int]
    memory: int
    driver: str
    cuda: str

    @property
    def driver_branch(self) -> str:
        """Release branch, within which NVIDIA keeps the driver compatible, e.g. "580"."""
        return self.driver.split(".")[0]


def find_gpu(index: int = 0) -> Gpu:
    """Describe the GPU with that index, in CUDA's order.

    Raises:
        CovisError: there is no cuda-python, driver or GPU (exit code 3), or no GPU with that index
            (exit code 2).
    """
    try:
        core = importlib.import_module("cuda.core")
    except ImportError as error:
        raise environment_error(
            f"cuda-python is missing ({printable(str(error))})", hint="pip install 'covis[trt]'"
        ) from None
    try:
        devices = core.Device.get_all_devices()
    except Exception as error:  # the library is missing, or the driver reports an error
        raise environment_error(
            f"no NVIDIA driver answers ({first_line(error, 200)})",
            hint="install the driver; bundles still run on the CPU (`covis run`)",
        ) from error
    if not devices:
        raise environment_error(
            "this machine has no GPU that CUDA can see",
            hint="check CUDA_VISIBLE_DEVICES; bundles still run on the CPU (`covis run`)",
        )
    if not 0 <= index < len(devices):
        raise user_error(f"no GPU {index}", where="--device", hint=f"use 0 to {len(devices) - 1}")
    try:
        return _describe(core, devices[index])
    except Exception as error:
        raise environment_error(
            f"the driver does not say what GPU {index} is ({first_line(error, 200)})",
            hint="see `covis doctor`; a newer driver may be needed",
        ) from error


def _describe(core: Any, device: Any) -> Gpu:
    driver = importlib.import_module("cuda.bindings.driver")
    status, memory = driver.cuDeviceTotalMem(device.device_id)
    if int(status) != 0:
        raise RuntimeError(f"cuDeviceTotalMem: {status}")
    major, minor = device.compute_capability
    version = core.system.get_kernel_mode_driver_version()
    cuda = core.system.get_user_mode_driver_version()
    return Gpu(
        name=str(device.name),
        compute_capability=(int(major), int(minor)),
        memory=int(memory),
        driver=".".join(str(part) for part in version),
        cuda=f"{cuda[0]}.{cuda[1]}",
    )
