"""What imports leave out: torch's compiler in a worker, what the classifier alone needs everywhere else."""

from __future__ import annotations

import subprocess
import sys

import pytest

from litmeter.errors import EXTRAS

WITHOUT_COMPILER = """
import sys
import torch
disable = torch.compiler.disable
import litmeter.classifier.model.model
import litmeter.classifier.model.preprocess
from litmeter.classifier.model.model import timm_model
with torch.inference_mode():
    timm_model("test_efficientnet", 2, 64).eval()(torch.zeros(1, 3, 64, 64))
print([name for name in sys.modules if name.startswith(("torch._dynamo", "sympy"))])

from litmeter.system.imports import without_compiler
with without_compiler():
    from torch._dynamo.utils import is_compile_supported
    print(is_compile_supported("cpu"), sys.modules["torch._dynamo"].__file__ is not None)

from torchvision.ops import roi_align
boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
print(roi_align(torch.ones(1, 1, 8, 8), boxes, 2).mean().item())

assert torch.compiler.disable is disable
print(torch.compile(lambda x: 2 * x, backend="eager")(torch.ones(1)).item())
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_workers_do_not_import_it_and_it_works_afterwards() -> None:
    done = run(WITHOUT_COMPILER)
    assert done.stdout.splitlines() == ["[]", "True True", "1.0", "2.0"], done.stderr


REFUSING = """
import sys
from importlib.abc import MetaPathFinder

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
"""
"""With these modules, an environment without any extra."""

IMPORT_ALL = """
import importlib, pkgutil
import litmeter
for module in pkgutil.walk_packages(litmeter.__path__, "litmeter."):
    if not module.name.endswith(("__main__", "_preload")):  # these do what they are for
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            print(module.name)
"""
CLASSIFIER = {
    *(f"litmeter.classifier.{name}" for name in ("ceilings", "data.sources", "pipeline")),
    "litmeter.peaks",
    *(f"litmeter.classifier.model.{name}" for name in ("graph", "model", "predictor", "preprocess")),
    *(f"litmeter.classifier.model.compiled.{name}" for name in ("model", "package")),
    *(f"litmeter.stages.{name}" for name in ("ceilings", "data", "export", "train")),
    *(f"litmeter.classifier.training.{name}" for name in ("fit", "weights")),
}
"""Modules that may need one."""


def test_all_but_the_classifier_is_imported_without_any_extra() -> None:
    done = run(REFUSING + IMPORT_ALL, ",".join(EXTRAS))
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) - CLASSIFIER == set()


@pytest.mark.parametrize(
    ("main", "arguments", "status", "said"),
    [
        ("litmeter.cli.main", ["--help"], 0, ""),
        ("litmeter.stages.__main__", ["train"], 2, "pip install 'litmeter[train]'"),
    ],
)
def test_without_any_extra_a_command_works_or_says_which_one_it_needs(
    main: str, arguments: list[str], status: int, said: str
) -> None:
    program = f"{REFUSING}\nfrom {main} import main\nsys.exit(main(sys.argv[2:]))"
    done = run(program, ",".join(EXTRAS), *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (status, bool(said))
    assert said in done.stderr
