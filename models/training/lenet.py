"""Trains LeNet-5 on MNIST digits: `python -m models.training.lenet --data ../shared/data/mnist --seed 0`.

The data are the two gzipped IDX files of the 10,000 MNIST test digits. Every fifth digit (index % 5 == 4) is
held out: 8,000 to learn from, 2,000 to be judged on, whatever the seed.
"""

from __future__ import annotations

import argparse
import gzip
import logging
import math
import struct
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from models.classification.lenet import LeNet5
from models.weights import sha256_of

log = logging.getLogger(__name__)

BATCH = 64
"""Digits a step."""
RATE = 4e-3
"""The learning rate at its peak."""


def read_idx(path: Path) -> Tensor:
    """A gzipped IDX file of bytes (http://yann.lecun.com/exdb/mnist, "the IDX file format") -> uint8 Tensor.

    Raises:
        ValueError: the file is not one.
    """
    data = gzip.decompress(path.read_bytes())
    zeros, kind, dimensions = struct.unpack_from(">HBB", data)
    if zeros != 0 or kind != 0x08:
        raise ValueError(f"{path.name} is no IDX file of bytes")
    shape = struct.unpack_from(f">{dimensions}I", data, 4)
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy())


def read_mnist(folder: Path) -> tuple[Tensor, Tensor]:
    """The ten thousand digits: uint8 Tensor[10000, 28, 28], light on black, and int64 Tensor[10000]."""
    images = read_idx(folder / "t10k-images-idx3-ubyte.gz")
    return images, read_idx(folder / "t10k-labels-idx1-ubyte.gz").long()


def held_out(count: int) -> Tensor:
    """bool Tensor[count]: every fifth digit is never learned from."""
    return torch.arange(count) % 5 == 4


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Tensor[N, 3, H, W] -> the same, each turned, scaled, sheared, moved and warped a little.

    The limits: 12 degrees, 15%, 0.15, 2 pixels. The warp is elastic, by a smooth field of about a pixel:
    Simard, Steinkraus and Platt, "Best Practices for Convolutional Neural Networks" (ICDAR 2003).
    """
    count, _, height, width = images.shape

    def draw(limit: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    angle, shear = draw(math.radians(12)), draw(0.15)
    scale_x, scale_y = torch.exp(draw(0.15)), torch.exp(draw(0.15))
    cosine, sine = angle.cos(), angle.sin()
    rows = (
        torch.stack([scale_x * cosine, -sine + shear, draw(4 / height)], 1),
        torch.stack([sine, scale_y * cosine, draw(4 / height)], 1),
    )
    grid = F.affine_grid(torch.stack(rows, 1), [count, 1, height, width], align_corners=False)
    coarse = torch.randn(count, 2, 6, 6, generator=generator) * (2 / width)
    warp = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True).permute(0, 2, 3, 1)
    moved = F.grid_sample(images[:, :1], grid + warp, align_corners=False)  # the channels are equal
    return moved.expand(-1, 3, -1, -1)


def to_input(images: Tensor) -> Tensor:
    """uint8 Tensor[N, 28, 28] -> float Tensor[N, 3, 32, 32], 0..1, on more ground."""
    return F.pad(images.float() / 255, (2, 2, 2, 2))[:, None].expand(-1, 3, -1, -1)


def train(images: Tensor, labels: Tensor, *, epochs: int, seed: int) -> LeNet5:
    """AdamW with one cycle of the learning rate; deterministic for a seed on one machine.

    Args:
        images: uint8 Tensor[N, 28, 28].
        labels: int64 Tensor[N].
        epochs: passes over the digits.
        seed: of the initialisation, the order and the augmentation.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = LeNet5()
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.02)
    steps = math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=epochs * steps)
    inputs = to_input(images)
    for epoch in range(epochs):
        network.train()
        total = torch.zeros(())
        for chosen in torch.split(torch.randperm(len(images), generator=generator), BATCH):
            loss = F.cross_entropy(network(augment(inputs[chosen], generator)), labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.detach() * len(chosen)
        log.info("epoch %d: loss %.4f", epoch + 1, total.item() / len(images))
    return network.eval()


@torch.inference_mode()
def confusion(network: LeNet5, images: Tensor, labels: Tensor) -> Tensor:
    """int64 Tensor[10, 10]: how many digits of a row's class were taken for a column's."""
    network.eval()
    guesses = network(to_input(images)).argmax(1)
    return torch.bincount(labels * 10 + guesses, minlength=100).reshape(10, 10)


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, judges on the held-out digits, writes the weights; tells what their card has."""
    parser = argparse.ArgumentParser(prog="python -m models.training.lenet", description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the two gzipped IDX files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "weights")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(args.threads)

    images, labels = read_mnist(args.data)
    judged = held_out(len(images))
    start = time.perf_counter()
    network = train(images[~judged], labels[~judged], epochs=args.epochs, seed=args.seed)
    seconds = time.perf_counter() - start
    table = confusion(network, images[judged], labels[judged])
    held, right = int(table.sum()), int(table.diagonal().sum())
    args.out.mkdir(parents=True, exist_ok=True)
    weights = args.out / "lenet5.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, weights)
    log.info("held out: %d of %d right, %.2f%%, after %.0f s", right, held, 100 * right / held, seconds)
    log.info("true class (rows) and answer (columns):\n%s", table.numpy())
    log.info("%s has sha256 %s", weights, sha256_of(weights))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
