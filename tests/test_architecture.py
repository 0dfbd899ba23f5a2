"""The arrows of the design, checked by walking the imports of every file."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.paths import ROOT

SERVING = (
    "service",
    "bentoml",
    "_bentoml_impl",
    "fastapi",
    "starlette",
    "prometheus_client",
    "grpc",
    "opentelemetry",
)


def files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@cache
def imports(path: Path) -> list[str]:
    """Every module that a file imports, anywhere in it; `from a import b` gives both `a` and `a.b`."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def under(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def ours(path: Path, *packages: str) -> list[str]:
    return [name for name in imports(path) if under(name, *packages)]


def ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", files("models"), ids=ids)
def test_models_know_nothing_of_serving(path: Path) -> None:
    assert ours(path, *SERVING, "loadtests", "tests") == []


OFFLINE = {"training", "quantize"}
"""Packages of `models` that make weights; serving knows nothing of them."""


@pytest.mark.parametrize("path", [p for p in files("models") if not OFFLINE & set(p.parts)], ids=ids)
def test_inference_does_not_need_training(path: Path) -> None:
    assert ours(path, "models.training", "models.quantize") == []


@pytest.mark.parametrize("path", files("service"), ids=ids)
def test_serving_does_not_need_training_tests_or_the_entry_point(path: Path) -> None:
    assert ours(path, "models.training", "models.quantize", "loadtests", "tests", "service.bento") == []


@pytest.mark.parametrize("name", ["batcher", "clock", "capacity", "queue"])
def test_the_batcher_is_the_standard_library_and_errors(name: str) -> None:
    path = ROOT / "service" / "engine" / f"{name}.py"
    allowed = (
        *sys.stdlib_module_names,
        "service.errors",
        "service.engine.clock",
        "service.engine.capacity",
        "service.engine.queue",
    )
    assert [module for module in imports(path) if not under(module, *allowed)] == []


ARROWS = {
    "errors": (),
    "settings": (),
    "inflater": (),
    "encoded": (),
    "telemetry": ("errors",),
    "engine": ("errors", "settings", "telemetry"),
    "host": ("errors", "settings", "telemetry"),
    "request": ("engine", "errors", "host", "telemetry"),
    "tasks": ("encoded", "engine", "errors", "request", "telemetry", "torch_process"),
    "jobs": ("engine", "errors", "settings", "tasks", "telemetry"),
    "torch_process": ("engine", "errors"),
    "app": ("torch_process", "engine", "host", "jobs", "request", "settings", "tasks", "telemetry"),
    "device": ("app", "engine", "host", "settings", "telemetry"),
    "oip": ("app", "encoded", "engine", "errors", "request", "tasks", "telemetry"),
    "cards": ("engine", "tasks", "torch_process"),
    "check": ("engine", "settings"),
    "inspect": ("engine", "settings"),
    "web": (
        "app",
        "cards",
        "encoded",
        "engine",
        "errors",
        "inflater",
        "jobs",
        "oip",
        "request",
        "tasks",
        "telemetry",
    ),
    "rpc": ("app", "cards", "engine", "errors", "inflater", "oip", "request", "settings", "tasks"),
    "documents": ("errors", "settings", "tasks", "telemetry", "web"),
}
"""What each package or module of `service/` may import of the others; `bento` imports all."""


def node(path: Path) -> str:
    return path.relative_to(ROOT / "service").with_suffix("").parts[0]


@pytest.mark.parametrize(
    "path", [path for path in files("service") if node(path) not in ("__init__", "bento")], ids=ids
)
def test_packages_of_the_service_know_only_what_is_below_them(path: Path) -> None:
    allowed = [f"service.{name}" for name in (node(path), *ARROWS[node(path)])]
    found = [name for name in ours(path, "service") if name not in ("service", "service.__version__")]
    assert [name for name in found if not under(name, *allowed)] == []


@pytest.mark.parametrize("path", files("service/web", "service/rpc", "service/oip"), ids=ids)
def test_transports_know_no_model_class(path: Path) -> None:
    """Of `models` only its vocabulary: errors, kinds, parameters, options and results."""
    vocabulary = (
        "models.errors",
        "models.headers.accepted",
        "models.pipeline",
        "models.parameters",
        "models.style.result",
    )
    assert [
        name for name in ours(path, "models") if not under(name, *vocabulary) and ".result" not in name
    ] == []


@pytest.mark.parametrize("path", files("service/engine"), ids=ids)
def test_the_engine_knows_no_model(path: Path) -> None:
    allowed = ("models.errors", "models.image", "models.inference", "models.ir", "models.pipeline")
    assert [name for name in ours(path, "models") if not under(name, *allowed)] == []


INSIDE = (
    "alone.py",
    "chains.py",
    "decode_fuzz.py",
    "decode_times.py",
    "loopserver.py",
    "simulate.py",
)
"""Load tests that use what is behind the API: networks alone on a GPU; the in-process limit that served
figures are compared with; decoding in child processes, which may die, and its times; workers of which parts
are left out; a simulation of the batcher itself."""


@pytest.mark.parametrize(
    "path",
    [p for p in files("loadtests") if p.name not in INSIDE],
    ids=ids,
)
def test_load_tests_talk_to_the_public_api_only(path: Path) -> None:
    # tasks.py reads the tasks' values
    tasks = ours(path, "service.tasks") if path.name == "tasks.py" else []
    assert [name for name in ours(path, "models", "service") if name not in tasks] == []


def packages(tree: str) -> dict[str, set[str]]:
    """The import graph of a tree's packages; a module beside the packages is a node of its own."""

    def node(name: str) -> str | None:
        _, _, rest = name.partition(".")
        first = rest.partition(".")[0]
        inside = (ROOT / tree / first).is_dir() or (ROOT / tree / f"{first}.py").is_file()
        return first if under(name, tree) and inside else None

    graph: dict[str, set[str]] = {}
    for path in files(tree):
        parts = path.relative_to(ROOT).with_suffix("").parts
        own = node(".".join(parts)) or "__init__"
        graph.setdefault(own, set()).update(
            found for name in imports(path) if (found := node(name)) not in (None, own)
        )
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes from which a circle can be reached; none in a graph without circles."""
    left = {name: set(targets) for name, targets in graph.items()}
    while leaves := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in leaves:
            del left[name]
    return sorted(left)


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["a", "b", "c", "d"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("tree", ["models", "service"])
def test_packages_form_no_circle(tree: str) -> None:
    assert circle(packages(tree)) == []


PACKAGED = ("models", "service", "tests/models")
"""Trees whose files are grouped; add a tree here to apply the rule to it."""


def crowded(folder: Path) -> dict[str, list[str]]:
    """Prefixes that three or more files of a folder share: ``yolo`` of `yolo.py`, `yolo_a.py` and another."""
    by_prefix: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.py")):
        stem = path.stem.removeprefix("test_")
        if not stem.startswith("_"):
            by_prefix.setdefault(stem.partition("_")[0], []).append(path.name)
    return {prefix: names for prefix, names in by_prefix.items() if len(names) >= 3}


FOLDERS = sorted({path.parent for path in files(*PACKAGED)})


@pytest.mark.parametrize("folder", FOLDERS, ids=ids)
def test_three_files_of_one_prefix_are_a_package(folder: Path) -> None:
    assert crowded(folder) == {}
