"""What engines would run on: GPU, driver and TensorRT, as one line of JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any


def probe() -> dict[str, Any]:
    """The GPU and TensorRT's version; `reason` says what is missing, if anything."""
    from covis.engines.errors import CovisError
    from covis.engines.system.gpu import find_gpu
    from covis.engines.tensorrt.module import import_tensorrt

    try:
        gpu = find_gpu()
        return {"engine_gpu": asdict(gpu), "tensorrt": str(import_tensorrt().__version__)}
    except CovisError as error:
        return {"reason": str(error)}


if __name__ == "__main__":
    print(json.dumps(probe()))
