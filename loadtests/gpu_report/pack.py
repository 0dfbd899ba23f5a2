"""Makes what a bare machine needs for the report; see `carried.py`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from loadtests import loadgen
from loadtests.gpu_report.carried import KINDS, images

ROOT = Path(__file__).resolve().parents[2]
MIB = 1024 * 1024
PYTHON = "3.12"
PLATFORMS = (
    "manylinux_2_28",
    "manylinux_2_27",
    "manylinux_2_24",
    "manylinux_2_17",
    "manylinux2014",
    "manylinux_2_12",
    "manylinux_2_5",
)
"""Of wheels that are taken; pip knows no older one by a newer one's name."""
MODELS = (
    "efficientnet-lite0",
    "lenet5",
    "yolo-person",
    "paintings",
    "mtcnn",
    "efficientdet-lite0",
    "dlib-resnet",
)
"""In the order in which they are packed, each if there is room."""
COUNTS = {"classify": 24, "detect": 10, "faces": 12}
LARGEST = 100 * 1024  # bytes of an image
THERE = (
    *("aiohappyeyeballs", "aiohttp", "aiosignal", "certifi", "charset-normalizer", "frozenlist", "fsspec"),
    *("grpcio", "httpcore", "httpx", "jinja2", "markupsafe", "multidict", "numpy", "opencv-python-headless"),
    *(
        "openvino",
        "openvino-telemetry",
        "pillow",
        "propcache",
        "pygments",
        "pyyaml",
        "redis",
        "requests",
        "rich",
    ),
    *("rq", "safetensors", "urllib3", "uvloop", "wrapt", "yarl"),
)
"""Packages that machines for torch have, or that the report does without."""
FOR_TESTS = ("pytest", "pluggy", "iniconfig")


def pack(folder: Path, limit: float, models: Sequence[str] = MODELS) -> str:
    """Writes the folder anew: at most `limit` MiB with the checkout but its `docs`; what is in it, in a line.

    Raises:
        ValueError: without any weights that is too much already.
        CalledProcessError: a model is not in the catalogue, or a file of it is missing.
    """
    shutil.rmtree(folder, ignore_errors=True)
    cache = folder / "cache" / "lynceus"
    cache.mkdir(parents=True)
    room = limit * MIB - size(tracked())
    generator = loadgen.build()
    shutil.copy2(generator, cache / generator.name)
    for kind, source in images(None).items():
        small = [path for path in sorted(source.rglob("*.jpg")) if path.stat().st_size <= LARGEST]
        _copy(spread(small, COUNTS[kind]), folder / "images" / kind)
    _wheels(folder / "wheels")
    room -= size(folder.rglob("*"))
    if room < 0:
        raise ValueError(f"{-room / MIB:.1f} MiB over {limit:.0f} MiB without any weights")
    taken, left = [], []
    for model in models:
        files = weights(model)
        if (needed := size(files)) <= room:
            _copy(files, cache)
            room -= needed
            taken.append(model)
        else:
            left.append(f"{model} ({needed / MIB:.1f} MiB)")
    return (
        f"{folder}: {', '.join(taken)}; left out: {', '.join(left) or 'none'}; {room / MIB:.1f} MiB to "
        "spare, where docs/ is left behind"
    )


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """So many of them, from the first to the last."""
    step = max(1, len(paths) // count)
    return list(paths[::step][:count])


def size(paths: Iterable[Path]) -> int:
    """Bytes of the files."""
    return sum(path.stat().st_size for path in paths if path.is_file())


def tracked() -> list[Path]:
    """The checkout's own files, without those that only people read."""
    command = [shutil.which("git") or "git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and not name.startswith("docs/")]


def weights(model: str) -> list[Path]:
    """A model's files that are not in the checkout, as they were fetched; others are made of them there."""
    script = (
        "import sys; from models.weights import *\n"
        "store = Store(); found = store.originals(standard_catalogue()[sys.argv[1]])\n"
        "print('\\n'.join(sorted({str(path) for path in found.values() if path.parent == store.cache})))"
    )
    listed = subprocess.run(
        [sys.executable, "-c", script, model], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return [Path(line) for line in listed.stdout.splitlines() if line]


def _copy(paths: Iterable[Path], into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths):
        name = path.name if path.suffix != ".jpg" else f"{number:03d}-{path.name}"
        shutil.copy2(path, into / name)


def requirements() -> list[str]:
    """Pins of the packages to bring, from the locks."""
    served, tests = (dict(_pins(name)) for name in ("requirements.lock", "requirements-dev.lock"))
    wanted = {name: version for name, version in served.items() if name not in THERE}
    wanted |= {name: tests[name] for name in FOR_TESTS}
    return [f"{name}=={version}" for name, version in sorted(wanted.items())]


def _pins(lock: str) -> list[tuple[str, str]]:
    return re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE)


def _wheels(into: Path) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        listed.write("\n".join(requirements()))
        listed.flush()
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += [f"--python-version={PYTHON}", *(f"--platform={name}_x86_64" for name in PLATFORMS)]
        command += [f"--dest={into}", "-r", listed.name]
        subprocess.run(command, check=True)


assert set(COUNTS) == set(KINDS)  # noqa: S101
