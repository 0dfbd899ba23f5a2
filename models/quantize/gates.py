"""Whether a model may be served at a lower precision: its answers against those in float32, on images.

    python -m models.quantize.gates --data ../shared/data
    python -m models.quantize.gates --data ../shared/data --models yolo-person

`--gpu` judges a GPU's arithmetic of 16 bits instead of a CPU's, see `models.quantize.halves`.

The gates are below (`GATES`). A precision that passes stands in the catalogue (`precisions`); `auto` takes
the fastest of them that the processor computes fast. Every answer is that of the whole pipeline, as it is
served.

The data: `imagenet-sample/INDEX_*.jpg` (each also mirrored and as the middle 4/5 of both: four views an
image), `coco80/val`, the images of `coco-person` that `models.training.yolo` holds out, `faces/*/*.jpg` (all
pairs) and `photos/*.jpg`. None of them calibrated an int8 network.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models import registry
from models.errors import FaceNotFound
from models.faces.align import cut_faces
from models.faces.verify import compare, select_face
from models.image import Image, Pixels, decode
from models.ir.network import Networks
from models.ir.precision import FAST
from models.pipeline import Kind, Pipeline
from models.quantize.halves import Halves
from models.style.result import StyleOptions
from models.weights import Store, standard_catalogue

FLOAT32: Final = "float32"
STAGES: Final = "stages"
DETECTOR: Final = "mtcnn"
"""Finds and aligns the faces that an embedder is judged on."""


@dataclass(frozen=True, slots=True)
class Gate:
    """A bound of one figure.

    Attributes:
        figure: its name.
        least, most: inclusive; what is None is not bounded.
    """

    figure: str
    least: float | None = None
    most: float | None = None

    def passed(self, value: float) -> bool:
        """Whether a figure is within it."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        return f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"


GATES: Final[dict[Kind, tuple[Gate, ...]]] = {
    Kind.CLASSIFY: (Gate("top-1, points", least=-0.5), Gate("equal labels, %", least=97.5)),
    Kind.DETECT: (Gate("AP, points", least=-0.3), Gate("AP50, points", least=-0.5)),
    Kind.FACES: (Gate("verdicts flipped", most=0), Gate("distance moved", most=0.05)),
    Kind.EMBED: (
        Gate("verdicts flipped", most=0),
        Gate("distance moved", most=0.05),
        Gate("vector moved", most=0.02),
    ),
    Kind.STYLE: (Gate("least PSNR, dB", least=40), Gate("least SSIM", least=0.99)),
}
"""By kind of model, on what differs from float32."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One model at one precision.

    Attributes:
        model, precision: which.
        data: what it was judged on.
        figures: by the names of the gates.
        passed: all of them.
    """

    model: str
    precision: str
    data: str
    figures: Mapping[str, float]
    passed: bool


class Served:
    """A pipeline and what runs its networks, as the service does on a CPU, or as a GPU would."""

    def __init__(self, pipeline: Pipeline, networks: Networks | Halves) -> None:
        self._networks = networks
        self.pipeline = pipeline.with_stages(networks.stages)

    def answer(self, images: Sequence[Image], options: Any = None) -> list[Any]:
        """One result an image; each is a batch of its own."""
        return [self._one(image, options) for image in images]

    def _one(self, image: Image, options: Any) -> Any:
        prepared = self.pipeline.preprocess(image, options)
        outputs = self._networks.run([one[None] for one in prepared.inputs])
        return self.pipeline.postprocess(outputs, [prepared.context])[0]


Judge = tuple[str, Callable[[Served], Any], Callable[[Any, Any], dict[str, float]]]
"""What it is judged on, what is kept of the answers, and the figures of a precision's and float32's."""


def classify_figures(
    data: Path,
) -> Judge:
    """Judges classifiers of ImageNet."""
    paths = sorted((data / "imagenet-sample").glob("*.jpg"))
    truth = np.repeat([int(path.name.split("_")[0]) for path in paths], 4)

    def answers(served: Served) -> NDArray[np.int64]:
        found = [
            result.labels[0].index
            for path in paths
            for result in served.answer(list(views(decode(path.read_bytes()))))
        ]
        return np.array(found)

    def figures(ours: NDArray[np.int64], wanted: NDArray[np.int64]) -> dict[str, float]:
        right = (ours == truth).mean() - (wanted == truth).mean()
        return {"top-1, points": 100 * right, "equal labels, %": 100 * float((ours == wanted).mean())}

    return f"{len(paths)} images of ImageNet, 4 views each", answers, figures


def views(image: Image) -> Iterator[Image]:
    """An image, its middle, and both mirrored."""
    height, width = image.pixels.shape[:2]
    middle = image.pixels[height // 10 : height - height // 10, width // 10 : width - width // 10]
    for pixels in (image.pixels, middle):
        for view in (pixels, pixels[:, ::-1]):
            yield Image(np.ascontiguousarray(view), view.shape[1], view.shape[0])


def detect_figures(data: Path, person: bool) -> Judge:
    """Judges detectors by COCO's figures: of people alone, or of all 80 classes."""
    import json

    from models.checkpoint import read_labels
    from models.training.yolo import evaluate
    from models.training.yolo.data import split
    from models.training.yolo.folder import Folder

    if person:
        labels, crowds = ["person"], None
        samples: Sequence[Any] = split(Folder.read(data / "coco-person", classes=1))[1]
    else:
        labels = list(read_labels(data / "coco80" / "coco.names"))
        crowds = json.loads((data / "coco80" / "crowd.json").read_text(encoding="utf-8"))
        samples = Folder.read(data / "coco80" / "val", classes=len(labels)).samples
    index = {label: place for place, label in enumerate(labels)}
    options = evaluate.OPTIONS.model_copy(update={"classes": tuple(labels)})

    def answers(served: Served) -> Any:
        found = [
            (place, index[item.label], item.score, item.box)
            for place, sample in enumerate(samples)
            for item in served.answer([decode(sample.path.read_bytes())], options)[0].items
        ]
        return evaluate.precision(samples, found, len(labels), crowds)

    def figures(ours: Any, wanted: Any) -> dict[str, float]:
        return {
            "AP, points": 100 * (ours.ap - wanted.ap),
            "AP50, points": 100 * (ours.ap50 - wanted.ap50),
            "AP": ours.ap,
            "AP50": ours.ap50,
        }

    what = "people, held out" if person else "80 classes"
    return f"{len(samples)} images of COCO, {what}", answers, figures


def face_figures(data: Path, other: Callable[[str], Served], *, embeds: bool) -> Judge:
    """Judges a face detector or an embedder by the distances of all pairs of faces.

    Args:
        data: the folder.
        other: gives the model that works with it, in float32.
        embeds: whether the embedder is judged.
    """
    paths = sorted((data / "faces").rglob("*.jpg"))
    images = [decode(path.read_bytes()) for path in paths]

    def answers(served: Served) -> list[Any]:
        detector, embedder = (other(DETECTOR), served) if embeds else (served, other("embedder"))
        template = embedder.pipeline.card.space.template
        found: list[Any] = []
        for image in images:
            (faces,) = detector.answer([image])
            try:
                chips = cut_faces(image, [select_face(faces)], template)
            except FaceNotFound:
                found.append(None)
            else:
                found.append(embedder.answer(chips)[0])
        return found

    def figures(ours: list[Any], wanted: list[Any]) -> dict[str, float]:
        card = other("embedder").pipeline.card
        if [one is None for one in ours] != [one is None for one in wanted]:
            return {"verdicts flipped": np.inf, "distance moved": np.inf, "vector moved": np.inf}
        both = [(one, two) for one, two in zip(ours, wanted, strict=True) if one is not None]
        flipped, moved = 0, 0.0
        for (a, before_a), (b, before_b) in itertools.combinations(both, 2):
            now, before = compare(a, b, card), compare(before_a, before_b, card)
            flipped += now.verified != before.verified
            moved = max(moved, abs(now.distance - before.distance))
        vectors = max(float(np.linalg.norm(one.vector - two.vector)) for one, two in both)
        return {"verdicts flipped": flipped, "distance moved": moved, "vector moved": vectors}

    return f"{len(paths) * (len(paths) - 1) // 2} pairs of {len(paths)} faces", answers, figures


def style_figures(data: Path) -> Judge:
    """Judges style networks by the pixels that they paint."""
    paths = sorted((data / "photos").glob("*.jpg"))
    images = [decode(path.read_bytes()) for path in paths]

    def answers(served: Served) -> list[Pixels]:
        return [
            result.pixels
            for style in served.pipeline.styles
            for result in served.answer(images, StyleOptions(style=style.name))
        ]

    def figures(ours: list[Pixels], wanted: list[Pixels]) -> dict[str, float]:
        pairs = list(zip(ours, wanted, strict=True))
        return {
            "least PSNR, dB": min(cv2.PSNR(one, two) for one, two in pairs),
            "least SSIM": min(ssim(one, two) for one, two in pairs),
        }

    return f"{len(paths)} photos in every style", answers, figures


def ssim(one: Pixels, other: Pixels) -> float:
    """The structural similarity of two images, uint8 [H, W, 3]: its mean over places and channels.

    Wang et al., "Image quality assessment: from error visibility to structural similarity" (2004), with its
    Gaussian window of 11 pixels and its constants.
    """
    x, y = one.astype(np.float64), other.astype(np.float64)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(cv2.GaussianBlur(values, (11, 11), 1.5)[5:-5, 5:-5])

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    both = mean(x * y) - mean_x * mean_y
    index = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    return float((index / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


def judge(
    names: Sequence[str],
    data: Path,
    catalogue: Path | None = None,
    *,
    gpu: bool = False,
    only: Sequence[str] = (),
) -> Iterator[Judged]:
    """Every fast precision of some models, of a CPU's or of a GPU's; or those whose names are in `only`."""
    store, entries = Store(), standard_catalogue(catalogue)
    pipelines: dict[str, Pipeline] = {}
    kept: dict[str, Served] = {}

    def pipeline(name: str) -> Pipeline:
        if name not in pipelines:
            store.fetch(entries[name])
            pipelines[name] = registry.build(name, entries, store)
        return pipelines[name]

    def on_cpu(one: Pipeline, precision: str, of_stages: str = FLOAT32) -> Served:
        return Served(one, Networks(one, precision, 1, store.networks, stage_precision=of_stages))

    def other(role: str) -> Served:
        name = DETECTOR if role == DETECTOR else "dlib-resnet"
        if name not in kept:
            kept[name] = on_cpu(pipeline(name), FLOAT32)
        return kept[name]

    for name in names:
        one = pipeline(name)
        kind = one.card.task
        match kind:
            case Kind.CLASSIFY:
                what, answers, figures = classify_figures(data)
            case Kind.DETECT:
                what, answers, figures = detect_figures(data, one.card.labels == ("person",))
            case Kind.STYLE:
                what, answers, figures = style_figures(data)
            case _:
                what, answers, figures = face_figures(data, other, embeds=kind is Kind.EMBED)
        reference = on_cpu(one, FLOAT32)
        wanted = answers(reference)
        tries = [(precision, FLOAT32) for precision in FAST if precision != "int8" or one.quantized]
        of_gpu = ("float16", "bfloat16")
        if gpu:
            tries = [(precision, FLOAT32) for precision in of_gpu]
        if one.stages:
            tries += [(FLOAT32, precision) for precision in (of_gpu if gpu else of_gpu[1:])]
        for precision, of_stages in tries:
            precisions = precision if of_stages == FLOAT32 else f"{STAGES} {of_stages}"
            if only and precisions not in only:
                continue
            if gpu:
                own = registry.build(name, entries, store)
                served = Served(own, Halves(own, precision, of_stages))
            else:
                served = on_cpu(one, precision, of_stages)
            found = figures(answers(served), wanted)
            passed = all(gate.passed(found[gate.figure]) for gate in GATES[kind])
            yield Judged(name, precisions, what, found, passed)


def table(rows: Sequence[Judged]) -> str:
    """Markdown."""
    lines = ["| model | precision | images | figures (gate) | passed |"]
    lines.append("| --- | --- | --- | --- | --- |")
    gates = {gate.figure: str(gate) for several in GATES.values() for gate in several}
    for row in rows:
        values = "; ".join(
            f"{name} {value:+.3g} ({gates[name]})" if name in gates else f"{name} {value:.3f}"
            for name, value in row.figures.items()
        )
        lines.append(
            f"| {row.model} | {row.precision} | {row.data} | {values} | {'yes' if row.passed else '**no**'} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; status 1 where the catalogue names a precision that does not pass."""
    parser = argparse.ArgumentParser(
        prog="python -m models.quantize.gates",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--models",
        default="efficientnet-lite0,efficientdet-lite0,yolo-person,mtcnn,dlib-resnet,paintings",
        help="separated by commas",
    )
    parser.add_argument("--catalogue", type=Path, help="an operator's own catalogue")
    parser.add_argument("--gpu", action="store_true", help="float16 and bfloat16 as a GPU computes them")
    asked = parser.parse_args(arguments)
    names = asked.models.split(",")
    rows = []
    for row in judge(names, asked.data, asked.catalogue, gpu=asked.gpu):
        print(table([row]).splitlines()[-1], file=sys.stderr, flush=True)
        rows.append(row)
    print(table(rows))
    entries = standard_catalogue(asked.catalogue)
    served = {
        entry.name: {*entry.precisions, *(f"{STAGES} {name}" for name in entry.stage_precisions)}
        for entry in entries
    }
    if asked.gpu:  # bfloat16 of a CPU's passes other gates than that of a GPU's, which none is served at
        rows = [row for row in rows if not row.precision.endswith("bfloat16")]
    return int(any(not row.passed and row.precision in served[row.model] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
