"""Quantizes a model's network to int8, by NNCF's post-training quantization, for CPUs with VNNI.

    python -m models.quantize efficientnet-lite0 --images FOLDER
    python -m models.quantize mine --catalogue mine.toml --images FOLDER --out mine-int8.safetensors

The images calibrate the ranges of the activations: a few hundred of the kind that the model will see, and
none that it is judged on afterwards (`python -m models.quantize.gates`). The file that it writes is an
OpenVINO network that holds the SHA-256 of the float weights it was made of; what to write into the catalogue
is printed.

Method: Jacob et al., https://arxiv.org/abs/1712.05877: weights per channel, activations per tensor, symmetric
where their range is (NNCF's preset "mixed"), with fast bias correction.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from models import registry
from models.errors import ModelError, WeightsError
from models.image import decode
from models.ir.convert import Port, convert, pack
from models.pipeline import Pipeline
from models.training.yolo.folder import SUFFIXES
from models.weights import INT8, Store, sha256_of, standard_catalogue

MOST: Final = 300
"""Images that calibrate; more changed nothing."""

FLOAT: Final[dict[str, tuple[str, ...]]] = {
    "efficientdet-lite0": (
        r".*network\.(cells|coarser|boxes|classes).*",
        r"aten::.*",
    ),  # all but the backbone
    "efficientnet-lite0": (r".*classify.*",),
    "yolo-person": (r"aten::.*",),  # normalisation before, boxes behind
}
"""Model -> patterns of the names of layers that stay floats, since its gates do not pass without."""
FIRST: Final[dict[str, int]] = {"efficientdet-lite0": 8, "efficientnet-lite0": 3}
"""Model -> how many of its first convolutions stay floats: of the stem and the first blocks, which lose most
and take little time."""


def images_in(folder: Path, most: int) -> list[Path]:
    """The first `most` images below a folder, in the order of a digest of their names: an even choice that is
    the same on every machine.

    Raises:
        WeightsError: there is none.
    """
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
    if not found:
        raise WeightsError(f"{folder} holds no image ({', '.join(SUFFIXES)})")
    return sorted(found, key=lambda path: hashlib.sha256(path.name.encode()).digest())[:most]


def quantize(pipeline: Pipeline, images: Sequence[Path], keep: Sequence[str] = (), first: int = 0) -> Any:
    """A pipeline's module as an int8 `openvino.Model`.

    Args:
        pipeline: its preprocessing prepares the images.
        images: files that calibrate.
        keep: patterns of the names of layers that stay floats.
        first: how many of the first convolutions stay floats.

    Raises:
        WeightsError: the module cannot be converted.
    """
    import nncf

    if not pipeline.exportable:
        raise WeightsError(f"{pipeline.card.name} branches on its data: it cannot be converted")
    ports = [Port(one.shape, one.dtype) for one in pipeline.examples[0]]
    network = convert(pipeline.module, ports) if pipeline.convert is None else pipeline.convert()
    if not pipeline.dynamic_size:
        network.reshape({index: [pipeline.batch or -1, *port.shape] for index, port in enumerate(ports)})

    def batches() -> Iterator[dict[int, Any]]:
        for path in images:
            image = decode(path.read_bytes(), min_side=pipeline.min_side)
            inputs = pipeline.preprocess(image).inputs
            yield {index: np.stack([one] * max(1, pipeline.batch)) for index, one in enumerate(inputs)}

    convolutions = [op for op in network.get_ordered_ops() if op.get_type_name().endswith("Convolution")]
    names = [op.get_friendly_name() for op in convolutions[:first]]
    scope = nncf.IgnoredScope(names=names, patterns=list(keep))
    advanced = nncf.AdvancedQuantizationParameters(
        overflow_fix=nncf.OverflowFix.DISABLE  # VNNI adds in 32 bits: nothing can overflow
    )
    return nncf.quantize(
        network,
        nncf.Dataset(list(batches())),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        ignored_scope=scope,
        advanced_parameters=advanced,
    )


def recipe(keep: Sequence[str], images: Sequence[Path], first: int = 0) -> dict[str, str]:
    """What the result depends on besides the float weights, for the file's metadata."""
    names = "\n".join(f"{path.name} {sha256_of(path)}" for path in images)
    return {
        "method": "nncf.quantize, preset mixed",
        "nncf": importlib.metadata.version("nncf"),
        "openvino": importlib.metadata.version("openvino"),
        "float_layers": " ".join(keep),
        "float_first": str(first),
        "images": str(len(images)),
        "images_sha256": hashlib.sha256(names.encode()).hexdigest(),
    }


def in_order(packed: bytes) -> bytes:
    """A safetensors file with its metadata by name; `safetensors` writes it in any order. The same network
    is the same file."""
    size = int.from_bytes(packed[:8], "little")
    header = json.loads(packed[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + packed[8 + size :]


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the file and prints its entry; a failure is one line on stderr and status 1."""
    parser = argparse.ArgumentParser(
        prog="python -m models.quantize",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model")
    parser.add_argument("--images", type=Path, required=True, help="a folder of images that calibrate")
    parser.add_argument("--most", type=int, default=MOST, help=f"images; default: {MOST}")
    parser.add_argument("--catalogue", type=Path, help="an operator's own catalogue")
    parser.add_argument("--keep", action="append", help="a pattern of the names of layers that stay floats")
    parser.add_argument("--first", type=int, help="how many of the first convolutions stay floats")
    parser.add_argument("--out", type=Path, help="default: MODEL-int8.safetensors")
    asked = parser.parse_args(arguments)
    out = asked.out or Path(f"{asked.model}-int8.safetensors")
    try:
        entry = standard_catalogue(asked.catalogue)[asked.model]
        files = {role: path for role, path in Store().fetch(entry).items() if role != INT8}
        pipeline = registry.builder(entry.builder)(entry, files)
        images = images_in(asked.images, asked.most)
        keep = FLOAT.get(asked.model, ()) if asked.keep is None else asked.keep
        first = FIRST.get(asked.model, 0) if asked.first is None else asked.first
        network = quantize(pipeline, images, keep, first)
        made = recipe(keep, images, first)
        digest = hashlib.sha256(repr(sorted(made.items())).encode()).hexdigest()
        out.write_bytes(in_order(pack(network, {**made, "recipe": digest, "weights": entry.sha256})))
    except (ModelError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, recipe {digest}; for the catalogue:\n")
    print(f'[{asked.model}]\nprecisions = ["int8"]\n\n[{asked.model}.files.{INT8}]')
    print(f'source = "file"\npath = "{out.resolve()}"\nsha256 = "{sha256_of(out)}"')
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
