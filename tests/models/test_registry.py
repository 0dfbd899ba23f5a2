"""What a network's files are kept by: the code that makes it, and no other."""

from __future__ import annotations

import subprocess
import sys

import pytest

from models.registry import BUILDERS, sources
from tests.paths import ROOT

MODELS = ("lenet5", "yolo-person", "paintings")  # whose weights are committed


def of(builder: str) -> set[str]:
    return set(sources(BUILDERS[builder].partition(":")[0]))


@pytest.mark.parametrize("builder", BUILDERS)
def test_code_that_no_network_depends_on_is_left_out(builder: str) -> None:
    found = of(builder)
    assert BUILDERS[builder].partition(":")[0] in found
    assert not found & {"models.image", "models.headers.jpeg", "models.codecs.jpeg", "models.errors"}


def test_a_builder_depends_on_its_own_networks_alone() -> None:
    assert "models.classification.lenet" in of("lenet5")  # imported in a function
    assert "models.faces.mtcnn.networks" in of("mtcnn")  # a name that is a module
    assert "models.backbones.efficientnet_lite" in of("efficientdet")  # of an import
    assert "models.classification.lenet" not in of("mtcnn")


def test_all_code_that_builds_a_network_is_found() -> None:
    script = (
        "import sys; from models import registry; from models.weights import Store, standard_catalogue\n"
        "for name in sys.argv[1:]:\n"
        "    registry.build(name, standard_catalogue(), Store()).module\n"
        "torch = sys.modules['torch']\n"
        "for name, module in sys.modules.items():\n"
        "    if name.startswith('models.') and {'torch', 'nn', 'Tensor'} & vars(module).keys():\n"
        "        print(name)\n"
    )
    command = [sys.executable, "-c", script, *MODELS]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    builders = ("lenet5", "yolo", "style")
    assert set(ran.stdout.split()) <= set.union(*map(of, builders))
    assert "models.style.transfer" in ran.stdout
