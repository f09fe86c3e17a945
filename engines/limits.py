"""Limits of what is read: every size, length and number that a file or an option may have.

A file that comes from somebody else must not take all memory or all time before its fault is
found. Each limit is far above what a real file needs; the documentation lists them from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_GIB: Final = 1 << 30
_MIB: Final = 1 << 20
_KIB: Final = 1 << 10


@dataclass(frozen=True)
class Limit:
    """Largest value of something that is read.

    Attributes:
        what: The thing that is limited.
        most: Largest accepted value.
        unit: Unit of the value; "bytes" is shown as KiB, MiB or GiB.
        why: Reason for the value.
    """

    what: str
    most: int
    unit: str
    why: str

    def __str__(self) -> str:
        if self.unit != "bytes":
            return f"{self.most:,} {self.unit}".rstrip()
        for size, name in ((_GIB, "GiB"), (_MIB, "MiB"), (_KIB, "KiB")):
            if self.most % size == 0:
                return f"{self.most // size:,} {name}"
        return f"{self.most:,} bytes"


MANIFEST_FILE: Final = Limit(
    "`manifest.json` of a bundle", 16 * _MIB, "bytes", "a manifest takes about 20 KiB"
)
GRAPH: Final = Limit(
    "ONNX graph of a bundle, without its weights",
    256 * _MIB,
    "bytes",
    "a graph is parsed in memory; those of the demo take up to 0.5 MiB",
)
ONNX_FILE: Final = Limit(
    "ONNX file of `covis build --onnx`, with weights inside",
    2 * _GIB - 1,
    "bytes",
    "protobuf, the format of ONNX, allows no more",
)
TEXT: Final = Limit(
    "text in a manifest: a source, a licence, a list of layers, a schedule",
    4 * _KIB,
    "characters",
    "a list of 1,000 single layers takes 3,900",
)
STAGES: Final = Limit("stages of a bundle", 64, "stages", "the models have up to 7")
TENSORS: Final = Limit("inputs or outputs of a stage", 256, "tensors", "the demo's have up to 11")
RANK: Final = Limit("dimensions of a tensor", 8, "dimensions", "TensorRT takes no more")
DIMENSION: Final = Limit(
    "fixed dimension of a tensor", 2**31 - 1, "elements", "TensorRT counts them in 31 bits"
)
FILES: Final = Limit("files of a bundle", 256, "files", "each is open while the bundle is in use")
FILE_NAME: Final = Limit(
    "path of a file in a bundle", 255, "bytes", "file systems take no longer names"
)
MODEL_BLOCKS: Final = Limit(
    "blocks (`depth`) in a model's configuration",
    128,
    "blocks",
    "the models have up to 40, and each is built before the weights are compared with it",
)
MODEL_SIZE: Final = Limit(
    "any other number in a model's configuration", 65_536, "", "the widest layers have 8,192"
)
MODEL_RATIO: Final = Limit(
    "ratio of two widths (`mlp_ratio`) in a model's configuration", 64, "", "the models have 4"
)
CHECKPOINT_TABLE: Final = Limit(
    "table at the start of a safetensors file",
    16 * _MIB,
    "bytes",
    "the official checkpoints take 0.2 MiB",
)
SHARDS: Final = Limit(
    "files of a sharded checkpoint", 1_000, "files", "models of this size have up to 10"
)
PICKLE: Final = Limit(
    "pickle in a checkpoint that is converted, without its tensors",
    64 * _MIB,
    "bytes",
    "2,000 tensors take 0.3 MiB, an optimizer's state some MiB",
)
PICKLED_FILES: Final = Limit(
    "files in a checkpoint that is converted", 100_000, "files", "each tensor is one"
)
GROWTH: Final = Limit(
    "tensors of a checkpoint that is converted, by its own size",
    4,
    "times",
    "tensors that share memory are written one by one, and could repeat a number to any length",
)
CONVERSION: Final = Limit(
    "processor time to convert a checkpoint, besides 0.1 s a MB",
    300,
    "seconds",
    "loading torch takes some seconds, and each MB some milliseconds",
)
PLANS: Final = Limit(
    "records of plans in a folder", 10_000, "records", "all are read to choose one"
)
PLAN_RECORD: Final = Limit("record of a plan", _MIB, "bytes", "a record takes about 1 KiB")
PLAN_LAYERS: Final = Limit(
    "layer information of a plan", 64 * _MIB, "bytes", "it is parsed in memory"
)
TIMING_CACHE: Final = Limit(
    "TensorRT's cache of kernel times", _GIB, "bytes", "it is read into memory"
)
OWN_PLANS: Final = Limit(
    "list of own plans", 16 * _MIB, "bytes", "it has 65 bytes for each plan that was ever built"
)
VIEWS_AT_ONCE: Final = Limit(
    "views of a run", 20_000, "views", "more need 0.4 GB for a map of their pairs alone"
)
IMAGE_SIDE: Final = Limit("side of the model's image", 16_384, "pixels", "the models use about 500")
PHOTO: Final = Limit(
    "photo, mask or frame of a video",
    178_956_970,
    "pixels",
    "Pillow's limit against decompression bombs, which decode to 0.7 GB",
)
JPEG: Final = Limit(
    "JPEG, which is decoded at half size from 2^26 pixels on",
    2**28,
    "pixels",
    "a progressive one takes 6 bytes for each, 1.6 GB",
)
PHOTO_ASPECT: Final = Limit(
    "longer side of a photo, by its shorter side",
    100,
    "times",
    "a longer strip would take gigabytes at the width of the model's image",
)
VIDEO_FRAMES: Final = Limit(
    "frames of a video", 2_000_000, "frames", "nine hours at 60 frames a second"
)
LISTED_PHOTOS: Final = Limit(
    "photos in a list, before a choice", 1_000_000, "photos", "it ends an endless iterator"
)
JSON_FILE: Final = Limit(
    "JSON file that a command line names", 64 * _MIB, "bytes", "it is parsed in memory"
)
PAIR_MAPS: Final = Limit(
    "different regimes in a schedule of layers", 8, "regimes", "each has a map of all view pairs"
)
VIEWS: Final = Limit(
    "views or frames in an option, and probes", 1_000_000, "", "no memory holds more views"
)
DEVICE: Final = Limit("index of a GPU (`--device`)", 1_023, "", "machines have up to 16 GPUs")
THREADS: Final = Limit(
    "threads of ONNX Runtime (`--threads`)",
    1_024,
    "",
    "each stage has so many, and more fill the memory with stacks",
)
ERROR_LINE: Final = Limit(
    "text of an error", 4 * _KIB, "characters", "an error is one line that a person reads"
)

TABLE: Final[tuple[Limit, ...]] = tuple(
    value for value in list(globals().values()) if isinstance(value, Limit)
)
"""Every limit, in the order of this file."""
