"""What a bare machine is brought: unpacked, and put before what is there. The standard library alone.

A pack is a folder: `wheels/` (of packages that such machines lack), `cache/` (in the place of the user's
cache: weights, load generator) and `images/` (a folder for each of `KINDS`).
"""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

MARK = "GPU_REPORT_UNPACKED"
KINDS = ("classify", "detect", "faces")
BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"
HERE = {"classify": "imagenet-sample", "detect": "coco80/val/images", "faces": "faces"}


def unpack(pack: Path, into: Path) -> None:
    """Unpacks the wheels: what would be installed into `site-packages`, without installing."""
    into.mkdir(parents=True, exist_ok=True)
    for wheel in sorted((pack / "wheels").glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(into)
        for data in into.glob("*.data"):  # what a wheel keeps for other folders
            for library in data.glob("*lib"):
                for path in library.iterdir():
                    path.rename(into / path.name)


def environment(pack: Path, site: Path, given: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process that is to find what was brought."""
    path = os.pathsep.join(filter(None, (str(site), given.get("PYTHONPATH"))))
    return {**given, "PYTHONPATH": path, "XDG_CACHE_HOME": str(pack / "cache"), MARK: "1"}


def restart(pack: Path) -> None:
    """Starts this program anew with what is in the pack; does not return."""
    site = pack / "site"
    if not site.is_dir():
        unpack(pack, site)
    module = ["-m", "loadtests.gpu_report", *sys.argv[1:]]
    os.execve(  # noqa: S606 (its own arguments)
        sys.executable, [sys.executable, *module], environment(pack, site, os.environ)
    )


def images(pack: Path | None, own: Path | None = None) -> dict[str, Path]:
    """A folder of JPEGs for each of `KINDS`: one's own, of the pack, or of the data beside the checkout."""
    if own is None and pack is not None:
        own = pack / "images"
    return {kind: BESIDE / HERE[kind] if own is None else own.resolve() / kind for kind in KINDS}
