"""Builds the image for a CPU as an operator does, with Debian's own tools: no registry, no Docker."""

from __future__ import annotations

import configparser
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.paths import ROOT

TOOLS = ("buildah", "debootstrap", "bwrap")
BASE = "localhost/lynceus-test-base"
IMAGE = "localhost/lynceus-test-cpu"
SUITE = "bookworm"
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
BASE_NAME = "LYNCEUS_TEST_PYTHON_IMAGE"
"""A base that is there already, where a registry can be reached."""
STORAGE = Path("/var/lib/containers")
ROOM = 15_000_000_000
"""Bytes for what a build makes on its way: the stage with torch takes most of them."""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def free() -> int:
    """Bytes that are free where buildah keeps images."""
    return shutil.disk_usage(STORAGE if STORAGE.exists() else STORAGE.parent).free


class NoBase(Exception):
    """There is no base image here, and Debian's packages for one cannot be had."""


def may_confine() -> bool:
    """Whether this machine lets its root make namespaces and mounts; within a container it may not."""
    trial = ["bwrap", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--unshare-pid", "true"]
    return subprocess.run(trial, capture_output=True).returncode == 0


def lacking() -> str:
    """What this machine lacks for the test; empty: nothing."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return "; ".join(
        [
            *([f"not installed: {', '.join(missing)}"] if missing else []),
            *([f"less than {ROOM / 1e9:.0f} GB free in {STORAGE}"] if free() < ROOM else []),
            *(["not root, which debootstrap and buildah's isolation chroot take"] if os.getuid() else []),
            *([] if missing or may_confine() else ["no mounts or namespaces are allowed here"]),
        ]
    )


def output(*command: str | Path) -> str:
    """Of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (
        f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    )
    return done.stdout


def there_is(image: str) -> bool:
    """Whether the storage holds an image."""
    return (
        subprocess.run(["buildah", "inspect", "--type", "image", image], capture_output=True).returncode == 0
    )


def base(folder: Path) -> str:
    """The name of an image with Debian's Python; it takes minutes, and is made once a machine.

    Raises:
        NoBase: Debian's packages cannot be fetched.
    """
    if (given := os.environ.get(BASE_NAME)) is not None:
        return given
    if not there_is(BASE):
        root = folder / "root"
        try:
            output("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, root)
        except AssertionError as error:
            raise NoBase(f"debootstrap failed: {str(error)[-300:]}") from None
        shutil.rmtree(root / "var" / "cache" / "apt" / "archives", ignore_errors=True)
        container = output("buildah", "from", "scratch").strip()
        try:
            output("buildah", "add", "--quiet", container, root, "/")
            output("buildah", "commit", "--quiet", container, BASE)
        finally:
            output("buildah", "rm", container)
        shutil.rmtree(root)
    return BASE


def pip_configuration() -> str:
    """This machine's, of files and of variables, as a file of pip's."""
    listed = output(sys.executable, "-m", "pip", "config", "list")
    found = configparser.RawConfigParser()
    found.add_section("global")
    for line in sorted(listed.splitlines()):  # variables come before files, and win over them
        name, _, value = line.partition("=")
        option = name.rpartition(".")[2]
        if not found.has_option("global", option):
            found.set("global", option, " ".join(str(value.strip("'\"")).split("\\n")))
    text = io.StringIO()
    found.write(text)
    return text.getvalue()


def local_folders(configuration: str) -> set[str]:
    """Folders of packages that a configuration names; of an index the folder above, which has its files."""
    words = [word.partition("file://")[2] or word for word in configuration.split()]
    found = [Path(word) for word in words if word.startswith("/") and Path(word).is_dir()]
    return {str(path.parent if path.name == "simple" else path) for path in found}


def build(folder: Path) -> None:
    """Builds `IMAGE`. What the machine's pip needs is mounted, and in no layer.

    Args:
        folder: for what is passed to the build.
    """
    secret = folder / "pip.conf"
    secret.write_text(pip_configuration())
    mounted = {str(CERTIFICATES), *local_folders(secret.read_text())} if CERTIFICATES.exists() else set()
    volumes = [part for path in sorted(mounted) for part in ("--volume", f"{path}:{path}:ro")]
    arguments = ["--build-arg", f"PYTHON_IMAGE={base(folder)}", "--secret", f"id=pip,src={secret}"]
    file = ROOT / "docker" / "Dockerfile"
    command = ["buildah", "build", "--isolation", "chroot", "--layers", "--target", "cpu", "--tag", IMAGE]
    output(*command, *arguments, *volumes, "--file", file, ROOT)


@contextmanager
def mounted() -> Iterator[Path]:
    """The root file system of `IMAGE`, while it is needed."""
    container = output("buildah", "from", "--pull-never", IMAGE).strip()
    try:
        yield Path(output("buildah", "mount", container).strip())
    finally:
        output("buildah", "rm", container)


def config() -> Any:
    """The image's: its environment, user, folder and command."""
    return json.loads(output("buildah", "inspect", "--type", "image", IMAGE))["OCIv1"]["config"]


def confined(root: Path, state: Path, command: Sequence[str]) -> list[str]:
    """A command in a root file system as Kubernetes' restricted policy would run it, on the host's network.

    The root is read-only but for /tmp and the state; the command is process 1 and uid 10001, and has no
    capability and no way to get one.

    Args:
        root: the file system.
        state: folder that the user may write.
        command: with its arguments.
    """
    told = config()
    folder = "/tmp"  # noqa: S108  of the container
    user, _, group = told["User"].partition(":")
    environment = [part for entry in told["Env"] for part in ("--setenv", *entry.split("=", 1))]
    box = ["bwrap", "--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev"]
    box += ["--perms", "1777", "--tmpfs", folder, "--bind", str(state), "/var/lib/lynceus"]
    box += ["--ro-bind", "/etc/hosts", "/etc/hosts", "--ro-bind", "/sys", "/sys"]  # as every runtime does
    box += ["--unshare-pid", "--as-pid-1", "--unshare-ipc", "--unshare-uts", "--chdir", told["WorkingDir"]]
    box += [
        "--cap-drop",
        "ALL",
        *(f for cap in ("SETUID", "SETGID", "SETPCAP") for f in ("--cap-add", f"CAP_{cap}")),
    ]
    drop = ["setpriv", "--reuid", user, "--regid", group, "--clear-groups", "--no-new-privs"]
    drop += ["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"]
    return [*box, "--clearenv", *environment, "--", *drop, *command]
