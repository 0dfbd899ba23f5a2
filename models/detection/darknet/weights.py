"""Darknet's `.weights`: a short header and float32 numbers, layer after layer, without names or sizes.

The only check that the format allows is its length, so that is checked before anything is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.detection.darknet.cfg import Convolutional
from models.errors import WeightsError

EPS = 1e-6
"""Added to a variance, as in OpenCV's importer and (to the root) in the original darknet's `normalize_cpu`.

AlexeyAB's fork adds 1e-5. It moves the logits of yolo-fastest, which reach 24, by up to 0.014.
"""


def load_weights(layers: Sequence[tuple[Convolutional, nn.Conv2d]], path: Path) -> None:
    """Reads a file into a network's convolutions, with batch normalisation folded into them.

    Args:
        layers: sections and their modules (of any device: the parameters are replaced), in the file's order.
        path: the file.

    Raises:
        WeightsError: the file is unreadable, or its length is not what the cfg asks for; names the file, the
            layer and both sizes in bytes.
    """
    try:
        values = _values(path)
    except OSError as error:
        raise WeightsError(f"{path.name}: unreadable: {error.strerror}") from error
    end = 0
    for config, convolution in layers:
        end += _length(config, convolution)
        if end > values.size:
            raise WeightsError(
                f"{path.name}: too short: {config.place.name} of {config.place.file} needs {4 * end} bytes "
                f"after the header, the file has {4 * values.size}"
            )
    if end != values.size:
        config = layers[-1][0]
        raise WeightsError(
            f"{path.name}: too long: {config.place.name} of {config.place.file}, the last with weights, ends "
            f"{4 * end} bytes after the header, the file has {4 * values.size}"
        )
    start = 0
    for config, convolution in layers:
        end = start + _length(config, convolution)
        _fill(convolution, config.batch_normalize, values[start:end])
        start = end


def _values(path: Path) -> NDArray[np.float32]:
    """What follows the header: int32 major, minor, revision, and the number of images seen in training."""
    size = path.stat().st_size
    if size < 16:
        raise WeightsError(f"{path.name}: too short for the header of 16 bytes: it has {size}")
    major, minor, _ = np.fromfile(path, dtype="<i4", count=3).tolist()
    # `load_weights_upto` in darknet's src/parser.c: since version 0.2 `seen` has 64 bits
    wide = major * 10 + minor >= 2 and major < 1000 and minor < 1000
    header = 20 if wide else 16
    if size < header or (size - header) % 4:
        raise WeightsError(f"{path.name}: {size} bytes are no header of {header} and whole float32 numbers")
    return np.fromfile(path, dtype="<f4", offset=header)


def _length(config: Convolutional, convolution: nn.Conv2d) -> int:
    return convolution.weight.numel() + config.filters * (4 if config.batch_normalize else 1)


def _fill(convolution: nn.Conv2d, normalized: bool, values: NDArray[np.float32]) -> None:
    """Bias; scale, mean, variance if normalised; the kernel, [filters, channels / groups, size, size]."""
    filters = convolution.out_channels
    count = 4 if normalized else 1
    vectors = torch.from_numpy(values[: count * filters]).double().reshape(count, filters)
    kernel = torch.from_numpy(values[count * filters :]).reshape(convolution.weight.shape)
    bias = vectors[0]
    if normalized:
        scale, mean, variance = vectors[1:]
        factor = scale / (variance + EPS).sqrt()
        bias = bias - mean * factor
        kernel = kernel.double() * factor[:, None, None, None]
    convolution.weight = nn.Parameter(kernel.float().clone(), requires_grad=False)
    convolution.bias = nn.Parameter(bias.float(), requires_grad=False)
