"""Lay out what travels to a bare machine with a GPU: wheels, bundles, TensorRT, in pieces.

    python tests/gpu/prepare.py wheels --out DIR/wheels
    python tests/gpu/prepare.py bundles --out DIR/bundles [--full]
    python tests/gpu/prepare.py tensorrt --jar JAR --module WHEEL --out DIR/trt
    python tests/gpu/prepare.py pieces --out CARRY --mib 48 [--zstd] DIR/wheels DIR/bundles ...

The kernels' sitting needs the checkout and build/cuda/libcovis_kernels.so alone. For the engines:
`wheels` fetches what tests/gpu/wheels.txt lists; `bundles` exports the tiny bundles and, with
--full, the graphs of VGGT-1B's size in float16 (an export of 5 GB of random weights: minutes, and
6 GiB of memory); `tensorrt` takes builder, parser and Python module of TensorRT 10.6 out of the jar
`org.bytedeco:tensorrt:10.6-1.5.11:linux-x86_64-redist` and a wheel of tensorrt_cu12_bindings 10.6;
`pieces` cuts any files into pieces below a size, with a manifest and the script that joins and
checks them there. A copy of the checkout without its history says its commit in a file COMMIT.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.tensorrt.layout import name_module, unpack_libraries  # noqa: E402

WHEELS = ROOT / "tests" / "gpu" / "wheels.txt"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64",
             "manylinux2014_x86_64", "manylinux1_x86_64")  # fmt: skip
# Builder, its kernels, parser, in the order in which they need each other. No graph of ours uses
# NVIDIA's own plugins: a library of that name that registers nothing stands in for theirs.
LIBRARIES = ("libnvinfer.so", "libnvinfer_builder_resource.so", "libnvonnxparser.so")
PLUGINS = "libnvinfer_plugin.so.10"
STUB = 'extern "C" bool initLibNvInferPlugins(void*, char const*) { return false; }\n'
FULL_SIZE = (518, 518)


def wheel_command(out: Path, python: str = sys.executable) -> list[str]:
    """The command that fetches the listed wheels, whatever machine it runs on."""
    command = [python, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
               "--python-version", "3.12", "--implementation", "cp", "-d", str(out)]  # fmt: skip
    for platform in PLATFORMS:
        command += ["--platform", platform]
    return [*command, "-r", str(WHEELS)]


def wheels(options: argparse.Namespace) -> None:
    """Fetch the wheels that the engines need and a bare machine lacks."""
    options.out.mkdir(parents=True, exist_ok=True)
    subprocess.run(wheel_command(options.out), check=True)
    total = sum(path.stat().st_size for path in options.out.glob("*.whl"))
    print(f"{options.out}: {total / 2**20:.1f} MiB")


def bundles(options: argparse.Namespace) -> None:
    """Export the tiny bundles, and the graphs of the full size where asked for."""
    from tests.gpu.tiny_bundles import BUNDLES, export_tiny

    for name in BUNDLES:
        export_tiny(options.out, name)
    if options.full:
        full_graphs("vggt", options.out / "full", *FULL_SIZE)


def full_graphs(model: str, folder: Path, height: int, width: int, *more: str) -> None:
    """Export a model of random weights in float16, and keep all of it but the weights."""
    from tests.gpu.full_size import strip

    with tempfile.TemporaryDirectory(prefix="covis-full-", dir=folder.parent) as scratch:
        weights, bundle = Path(scratch) / "random.safetensors", Path(scratch) / "bundle"
        script = str(ROOT / "benchmarks" / "random_weights.py")
        _covis([script, model, str(weights)])
        words = ["-m", "covis", "export", model, "--weights", str(weights), "--out", str(bundle)]
        size = ["--height", str(height), "--width", str(width)]
        _covis([*words, *size, "--precision", "fp16", "--no-verify", *more])
        strip(bundle, weights, folder)


def _covis(words: list[str]) -> None:
    subprocess.run([sys.executable, *words], check=True, cwd=ROOT)


def tensorrt(options: argparse.Namespace) -> None:
    """Make a folder that Python imports `tensorrt` from, libraries included.

    Raises:
        ValueError: a library is not in the jar.
    """
    options.out.mkdir(parents=True)
    loaded = unpack_libraries(options.jar, options.out, LIBRARIES)
    stub = options.out / "tensorrt_libs" / PLUGINS
    command = ["c++", "-x", "c++", "-", "-shared", "-fPIC", "-O2", f"-Wl,-soname,{PLUGINS}"]
    subprocess.run([*command, "-o", str(stub)], input=STUB.encode(), check=True)
    with zipfile.ZipFile(options.module) as wheel:
        wheel.extractall(options.out)
    name_module(options.out, [*loaded[:-1], PLUGINS, loaded[-1]])
    print(f"there: PYTHONPATH={options.out.name}")


def pieces(options: argparse.Namespace) -> None:
    """Cut files and folders into pieces.

    Raises:
        ValueError: a name that comes twice, or is not there.
    """
    from tests.gpu.pieces import Compression, pack

    compression: Compression = "zstd" if options.zstd else "none"
    size = int(options.mib * 2**20)
    made = pack(options.sources, options.out, size, compression)["pieces"]
    total = sum(piece["size"] for piece in made.values())
    print(f"{options.out}: {total / 2**20:.1f} MiB in {len(made)} pieces, pieces.json, unpack.py")


def arguments(given: list[str] | None) -> argparse.Namespace:
    """The command line; a mistake in it is told in one line and ends in exit code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="wheels|bundles|tensorrt|pieces")

    def add(name: str, work: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=work.__doc__)
        command.set_defaults(work=work)
        command.add_argument("--out", type=Path, required=True)
        return command

    add("wheels", wheels)
    add("bundles", bundles).add_argument("--full", action="store_true")
    command = add("tensorrt", tensorrt)
    command.add_argument("--jar", type=Path, required=True)
    command.add_argument("--module", type=Path, required=True)
    command = add("pieces", pieces)
    command.add_argument("--mib", type=float, required=True, help="the most that one piece has")
    command.add_argument("--zstd", action="store_true", help="compress, with a window of 1 GiB")
    command.add_argument("sources", type=Path, nargs="+")
    options = parser.parse_args(given)
    if "mib" in options and not options.mib > 0:
        parser.exit(2, f"--mib: {options.mib} is no size\n")
    return options


def main(given: list[str] | None = None) -> int:
    """Do what was asked for."""
    options = arguments(given)
    try:
        options.work(options)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        print(error, file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"{' '.join(error.cmd[:4])} ...: ended with {error.returncode}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
