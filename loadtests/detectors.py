"""Average precision and time of every detector of the catalogue, over HTTP, as a Markdown table.

    python -m loadtests.detectors --sizes 320,384,448,512

One server of one worker with one thread has them all. `models.training.yolo.evaluate` posts the images and
scores the answers: `coco80/val` with all classes and, with people alone, what yolo-person was not trained on.
The time is the network's and the suppression's, of one image at a time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtests import command
from loadtests.server import ROOT, Server
from loadtests.tasks import DATA

CATALOGUE = ROOT / "models" / "weights" / "catalogue.toml"
SIZED = "efficientdet-lite0"
CROWD_AFTER = 13  # in coco-person a file's fourteenth box is a crowd region


def sized(sizes: Sequence[int]) -> tuple[str, list[str]]:
    """A catalogue (TOML) of the detector that has several canvases, once for each size, and their names.

    In float32 on a CPU: its int8 network was calibrated and judged at one size alone.
    """
    entry = tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))[SIZED]
    lines, names = [], []
    for size in sizes:
        names.append(f"{SIZED}-{size}")
        lines.append(f"[{names[-1]}]")
        lines += [f"{key} = {json.dumps(entry[key])}" for key in ("task", "builder", "license")]
        lines.append(f"options = {{size = {size}}}")
        for role, file in entry["files"].items():
            if role == "int8":
                continue
            lines.append(f"[{names[-1]}.files.{role}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in file.items()]
    return "\n".join(lines) + "\n", names


def detectors() -> list[str]:
    """The other detectors of the catalogue."""
    entries = tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))
    return [name for name, entry in entries.items() if entry["task"] == "detect" and name != SIZED]


def evaluate(address: str, model: str, *arguments: str) -> dict[str, Any]:
    """What the evaluation prints of a served model.

    Raises:
        subprocess.CalledProcessError: it failed, and said why on its standard error.
    """
    command = [sys.executable, "-m", "models.training.yolo.evaluate", *arguments]
    command += ["--url", f"http://{address}", "--model", model]
    printed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(printed)
    print(model, found, file=sys.stderr, flush=True)
    return found


def card(address: str, model: str) -> dict[str, Any]:
    """A model's card."""
    with urllib.request.urlopen(f"http://{address}/v1/models/{model}", timeout=30) as response:
        found: dict[str, Any] = json.loads(response.read())
    return found


def row(address: str, model: str, data: Path) -> str:
    """A line of the table."""
    about = card(address, model)
    canvases = about["details"].get("canvases") or [(about["input"]["height"], about["input"]["width"])]
    people = evaluate(
        address, model, str(data / "coco-person"), "--labels", "person", "--crowd-after", str(CROWD_AFTER)
    )
    cells = ["", "", "", "", ""]
    if len(about["labels"]) == 80:
        root = data / "coco80"
        names, crowd = str(root / "coco.names"), str(root / "crowd.json")
        every = evaluate(address, model, str(root / "val"), "--all", "--names", names, "--crowd", crowd)
        cells = [f"{every[name]:.3f}" for name in ("ap", "ap50", "small", "medium", "large")]
    size = ", ".join(f"{height} x {width}" for height, width in canvases)
    cells = [
        model,
        size,
        *cells,
        f"{people['ap']:.3f}",
        f"{people['ap50']:.3f}",
        f"{people['compute_ms']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Prints the table."""
    parser = command.parser(__doc__)
    parser.add_argument("--sizes", default="320,384,448,512", help=f"of {SIZED}, pixels")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with coco80 and coco-person")
    options = parser.parse_args()
    catalogue, names = sized([int(size) for size in options.sizes.split(",")])
    names += detectors()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sized.toml"
        file.write_text(catalogue, encoding="utf-8")
        environment = {
            "LYNCEUS_MODELS": ",".join(names),
            "LYNCEUS_CATALOGUE": str(file),
            "LYNCEUS_WORKERS": "1",
            "LYNCEUS_THREADS": "1",
        }
        fetch = [sys.executable, "-m", "service.host.fetch"]
        subprocess.run(fetch, cwd=ROOT, env={**os.environ, **environment}, stdout=sys.stderr, check=True)
        with Server(environment, timeout=900.0) as server:
            lines = [row(server.address, name, options.data) for name in names]
    print("| detector | canvases | AP | AP50 | small | medium | large | people AP | people AP50 | ms |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
