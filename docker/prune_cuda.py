"""Removes from an installed torch what a machine without a GPU never loads.

    python prune_cuda.py [site-packages]

The locked torch is PyPI's CUDA build, for a CPU-only wheel does not fit PyPI's torchvision. Its `import
torch` links libtorch_cuda.so and, through it, cuBLAS, cuFFT, cuSPARSE, NCCL and others, GPU or not; those
must stay. What nothing links (cuDNN's engines, cuSOLVER, NVSHMEM's transports, headers, static libraries)
is opened by a GPU's first call only, and Triton by `torch.compile` only, which the service does not use.
Without them an environment shrank from 6.2 GB to 3.8 GB. What to keep is taken from the loader (`ldd`), not
listed here, so that a newer torch needs no newer list.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOTS = ("torch/_C*.so", "torch/lib/libtorch_global_deps.so")
"""What `import torch` opens; the loader follows from there."""

UNUSED = ("triton", "triton-*.dist-info")


def linked(site: Path) -> set[Path]:
    """Every file that the loader opens with torch.

    Raises:
        FileNotFoundError: there is no torch.
        CalledProcessError: the loader fails.
    """
    roots = [path for pattern in ROOTS for path in sorted(site.glob(pattern))]
    if not roots:
        raise FileNotFoundError(f"no torch in {site}")
    found = set()
    for root in roots:
        shown = subprocess.run(["/usr/bin/ldd", str(root)], check=True, capture_output=True, text=True).stdout
        for line in shown.splitlines():  # "  libcudart.so.13 => /path/libcudart.so.13 (0x...)"
            path = line.partition("=>")[2].rpartition("(")[0].strip()
            if path.startswith("/"):
                found.add(Path(path).resolve())
    return found


def prune(site: Path) -> int:
    """Deletes what is not linked under `nvidia/`, and Triton; gives the bytes that this frees."""
    needed = linked(site)
    freed = 0
    for path in sorted((site / "nvidia").rglob("*"), reverse=True):  # what is in a folder before the folder
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.resolve() not in needed:
            freed += path.lstat().st_size
            path.unlink()
    for pattern in UNUSED:
        for folder in site.glob(pattern):
            freed += sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
            shutil.rmtree(folder)
    return freed


def main() -> None:
    """Prunes the packages of this interpreter, or of the folder named."""
    site = Path(sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("platlib"))
    print(f"{site}: {prune(site) / 1e6:.0f} MB less")


if __name__ == "__main__":
    main()
