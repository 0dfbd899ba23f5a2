"""`python -m service.documents` (`make docs`): writes the parts of the documents that are generated.

A part of a page stands between `<!-- code:NAME -->` and `<!-- /code:NAME -->`; the text around it is kept.
NOTICE is written whole. A test compares the committed files with what this makes.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from models.classification.explain.result import VisualizeOptions
from models.parameters import Parameters
from models.style.result import OptimiseOptions
from models.weights import COMMITTED, Entry, File, standard_catalogue
from service import errors, settings
from service.tasks import TASKS
from service.tasks.__main__ import main as parameters
from service.tasks.__main__ import rows
from service.telemetry import metrics
from service.web import jobs, models

ROOT: Final = Path(__file__).resolve().parent.parent
LICENSES: Final = COMMITTED / "licenses"
"""Texts that must travel with weights that are not this project's, a file for each entry: `NAME.txt`."""
PAGES: Final = ROOT / "service" / "web" / "ui" / "README.md"
"""Says what the files of the pages are, and whose."""


def routes() -> None:
    """Prints every route below `/v1` as a Markdown table."""
    print("| route | answer | parameters |\n| --- | --- | --- |")
    for task in TASKS:
        names = ", ".join(f"`{name}`" for name in task.params.model_fields)
        print(f"| `POST /v1/{task.path}` | {task.summary} | {names} |")
    for route in (*jobs.ROUTES, *models.ROUTES):
        names = ", ".join(f"`{name}`" for name in (route.params.model_fields if route.params else ()))
        print(f"| `{route.method} {route.path}` | {route.about.partition(chr(10))[0]} | {names} |")


def transports() -> None:
    """Prints where each task is found, as a Markdown table."""
    print("| task | HTTP | gRPC | images | Open Inference | answer as an image |")
    print("| --- | --- | --- | --- | --- | --- |")
    for task in TASKS:
        method = f"`{task.method}`" + (f", `{task.method}Stream`" if task.stream else "")
        images = ", ".join(f"`{name}`" for name in task.images) or "none: a JSON body"
        tensors = "" if task.tensors is None else f"models of `{task.models[task.tensors.model]}`"
        drawn = "" if task.draw is None else "always" if task.run is None else "yes"
        print(f"| `{task.name}` | `/v1/{task.path}` | {method} | {images} | {tensors} | {drawn} |")


def _options(kind: type[Parameters]) -> None:
    print("| parameter | values | default | meaning |\n| --- | --- | --- | --- |")
    for row in rows(kind):
        print(row)


def notice() -> None:
    """Prints NOTICE: licenses and sources of weights and of the pages' files, and the texts to pass on."""
    print("Lynceus\n\nThis product is licensed under the Apache License, Version 2.0 (the file LICENSE).")
    print("It is distributed with, or fetches, the weights of these models (models/weights/catalogue.toml):")
    entries: list[Entry] = list(standard_catalogue())
    for entry in entries:
        print(f"\n{entry.name}\n    license: {entry.license}")
        for source in dict.fromkeys(_source(file) for file in entry.files.values()):
            print(f"    source: {source}")
    pages = PAGES.read_text(encoding="utf-8").partition("\n\n")[2]
    print(f"\nIts pages hold what others made:\n{pages.rstrip()}")
    for entry in entries:
        text = LICENSES / f"{entry.name}.txt"
        if text.is_file():
            print(f"\n{'-' * 78}\n{entry.name}\n\n{text.read_text(encoding='utf-8').strip()}")


def _source(file: File) -> str:
    if file.source == "repo":
        card = COMMITTED / f"{Path(file.path).stem}.md"
        return f"trained by this project, models/weights/{card.name}" if card.is_file() else "this project"
    return f"{file.origin} ({file.source})" if file.origin else file.path


PARTS: Final[dict[str, dict[str, Callable[[], None]]]] = {
    "README.md": {"routes": routes},
    "docs/settings.md": {"settings": settings.main},
    "docs/metrics.md": {"metrics": metrics.main},
    "docs/errors.md": {"errors": errors.main},
    "docs/parameters.md": {
        "transports": transports,
        "parameters": parameters,
        "job-parameters": partial(_options, OptimiseOptions),
        "visualize-parameters": partial(_options, VisualizeOptions),
    },
}
"""What prints a part, by page and name."""


def printed(show: Callable[[], None]) -> str:
    """What a function prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        show()
    return out.getvalue()


def fill(text: str, name: str, content: str) -> str:
    """A page with what stands between a name's marks replaced.

    Raises:
        ValueError: the marks are not there, once each and in order.
    """
    begin, end = f"<!-- code:{name} -->", f"<!-- /code:{name} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the marks {begin} and {end} must stand there once each, in this order")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{content.strip()}\n{end}{rest.partition(end)[2]}"


def written(root: Path = ROOT) -> dict[Path, str]:
    """Every file with generated parts, as it should be.

    Raises:
        ValueError: a page lacks its marks.
    """
    found = {root / "NOTICE": printed(notice)}
    for page, parts in PARTS.items():
        text = (root / page).read_text(encoding="utf-8")
        for name, show in parts.items():
            text = fill(text, name, printed(show))
        found[root / page] = text
    return found


def main() -> None:
    """Writes them."""
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
