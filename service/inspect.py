"""`python -m service.inspect FILE`: what an exported network is, and a catalogue entry for it.

With ``--image PHOTO`` the entry is served once and its answer shown; a detector's is drawn. So wrong colours,
a wrong scale or a wrong head are seen before anything is deployed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.errors import ModelError, WeightsError
from models.exported.guess import Guess, guess
from models.exported.network import Network, TensorInfo
from models.exported.opener import open_network
from models.image import Image, decode, encode
from models.pipeline import Kind
from models.registry import build
from models.weights import Catalogue, Store, sha256_of
from service.settings import Settings, SettingsError, load

TASKS = (Kind.CLASSIFY, Kind.DETECT, Kind.EMBED)


def toml(value: Any) -> str:
    """A value as TOML has it: a text, a number, a truth value or a list of them."""
    if isinstance(value, list):
        return f"[{', '.join(toml(item) for item in value)}]"
    return json.dumps(value, ensure_ascii=False)


def entry(name: str, path: Path, found: Guess, labels: Path | None) -> str:
    """A catalogue's entry, ready to paste.

    Args:
        name: of the model.
        path: of the exported file.
        found: what it is.
        labels: a file of names, one a line, if there is one.
    """
    lines = [f"[{toml(name)}]", f'task = "{found.task}"', 'builder = "export"', 'license = "unknown"', ""]
    lines.append(f"[{toml(name)}.options]")
    lines += [f"{key} = {toml(value)}" for key, value in found.options.items()]
    if found.classes and labels is None:
        names = found.labels or [str(index) for index in range(found.classes)]
        lines.append(f"labels = {toml(names)}")
    for role, file in (("weights", path), ("labels", labels)):
        if file is not None:
            lines += [
                "",
                f"[{toml(name)}.files.{role}]",
                'source = "file"',
                f"path = {toml(str(file.resolve()))}",
            ]
            lines.append(f'sha256 = "{sha256_of(file)}"')
    return "\n".join(lines) + "\n"


def describe(path: Path, network: Network, found: Guess) -> list[str]:
    """What the file says, and what it does not."""
    lines = [f"# {path.name}: {network.format}, {path.stat().st_size / 1e6:.1f} MB"]
    lines += [f"# input   {_info(info)}" for info in network.inputs]
    outputs = network.outputs or [TensorInfo(str(index)) for index in range(len(found.outputs))]
    for info, shape in zip(outputs, found.outputs, strict=True):
        lines.append(
            f"# output  {_info(TensorInfo(info.name, info.shape or (None, *shape[1:]), info.dtype))}"
        )
    lines += [f"# guess   {remark}" for remark in found.remarks]
    if found.classes and not found.labels:
        lines.append(f"# labels  not in the file: numbers stand for {found.classes} names (--labels FILE)")
    lines.append("# A file does not say colour, scale, mean and std: check them with --image PHOTO.")
    return lines


def _info(info: TensorInfo) -> str:
    shape = "" if info.shape is None else f"[{', '.join('N' if n is None else str(n) for n in info.shape)}]"
    return f"{info.name} {info.dtype} {shape or 'of unknown shape'}".replace("  ", " ")


def show(text: str, name: str, photo: Path, drawn: Path, settings: Settings) -> list[str]:
    """Serves a catalogue's text once, on one photo: the answer, a line each.

    Raises:
        ModelError: the entry or the photo cannot be used.
        ValueError: the settings ask for a device or an executor that is not there.
    """
    from models.detection.draw import draw_detections
    from service.engine.executor import make_executor

    with tempfile.TemporaryDirectory() as folder:
        catalogue = Path(folder) / "catalogue.toml"
        catalogue.write_text(text, encoding="utf-8")
        pipeline = build(name, Catalogue((catalogue,)), Store(settings.weights_dir))
    image = decode(photo.read_bytes(), min_side=pipeline.min_side)
    lines = []
    if pipeline.card.task is Kind.EMBED:
        from models.image import resize

        side = pipeline.card.space.template.side
        if image.pixels.shape[:2] != (side, side):
            lines.append(f"{photo.name} is no aligned crop of {side} pixels: it is stretched for this trial")
        image = Image(resize(image.pixels, side, side), side, side)
    executor = make_executor(pipeline, settings)
    prepared = pipeline.preprocess(image)
    outputs = executor.run([prepared.inputs])
    (result,) = pipeline.postprocess(outputs, [prepared.context])
    lines.insert(0, f"on {executor.name}, {executor.device}, {executor.precision}:")
    match pipeline.card.task:
        case Kind.CLASSIFY:
            lines += [f"{label.score:.4f} {label.label}" for label in result.labels]
            total = float(result.scores.sum())
            if not math.isclose(total, 1, abs_tol=0.01):
                lines.append(f'the scores sum to {total:.2f}: set scores = "logits"')
            rows = [output.ravel() for output in outputs]
            likely = [row for row in rows if len(row) == len(result.scores) and float(row.min()) >= 0]
            if 'scores = "logits"' in text and any(
                math.isclose(float(row.sum()), 1, abs_tol=0.01) for row in likely
            ):
                lines.append('the output sums to 1 already: set scores = "probabilities"')
        case Kind.DETECT:
            lines += [
                f"{one.score:.4f} {one.label} {[round(edge, 1) for edge in one.box]}" for one in result.items
            ]
            drawn.write_bytes(encode(draw_detections(image.pixels, result), "jpeg"))
            lines.append(f"{len(result.items)} detections, drawn on {drawn}")
        case _:
            length = float((result.vector**2).sum() ** 0.5)
            lines.append(f"{len(result.vector)} numbers, length {length:.4f}")
    return lines


def read(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m service.inspect", description=__doc__)
    parser.add_argument("file", type=Path, help="a torch.export archive, TorchScript or ONNX")
    parser.add_argument("--name", help="of the model; default: the file's")
    parser.add_argument(
        "--task", choices=[kind.value for kind in TASKS], help="what it is for, if not guessed"
    )
    parser.add_argument("--labels", type=Path, help="class names, one a line")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help='an option, as TOML: --set head="yolov5"',
    )
    parser.add_argument("--image", type=Path, help="a photo to try it on")
    parser.add_argument("--draw", type=Path, help="where detections are drawn; default: FILE-detections.jpg")
    return parser.parse_args(arguments)


def options(given: Sequence[str]) -> dict[str, Any]:
    """`--set` as options; a bare word is a text.

    Raises:
        WeightsError: one is not KEY=VALUE.
    """
    found: dict[str, Any] = {}
    for text in given:
        key, _, value = text.partition("=")
        try:
            found |= tomllib.loads(f"{key} = {value}")
        except tomllib.TOMLDecodeError:
            if not key.isidentifier() or not value:
                raise WeightsError(f"--set {text}: not KEY=VALUE") from None
            found[key] = value
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints an entry, and an answer where a photo is given; a failure is one line on stderr and status 1."""
    asked = read(sys.argv[1:] if arguments is None else arguments)
    name = asked.name or asked.file.stem
    try:
        network = open_network(asked.file)
        found = guess(network, Kind(asked.task) if asked.task else None, options(asked.set))
        text = entry(name, asked.file, found, asked.labels)
        print("\n".join(describe(asked.file, network, found)))
        print(text)
        if asked.image is not None:
            drawn = asked.draw or Path(f"{asked.file.stem}-detections.jpg")
            print("\n".join(show(text, name, asked.image, drawn, load())))
    except (ModelError, SettingsError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
