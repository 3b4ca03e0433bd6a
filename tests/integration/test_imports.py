"""What is imported is declared; what is slow, or belongs to an extra, is imported only where it is needed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from litmeter.errors import EXTRAS
from litmeter.system.machine import packages_by_module

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]


def normal(name: str) -> str:
    """A distribution's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


DECLARED = {
    extra: {normal(re.split(r"[\[<>=~! ]", line)[0]) for line in lines}
    for extra, lines in [("", PROJECT["dependencies"]), *PROJECT["optional-dependencies"].items()]
    if extra not in ("test", "audit")
}
"""Distributions by the extra that brings them."""
DISTRIBUTIONS = packages_by_module()


def test_what_is_imported_is_declared() -> None:
    declared = set().union(*DECLARED.values())
    graph = grimp.build_graph("litmeter", include_external_packages=True, cache_dir=None)
    external = {m for m in graph.modules if graph.is_module_squashed(m)} - sys.stdlib_module_names
    external -= {"tomllib"}  # of Python 3.11; tomli before
    assert {m for m in external if not {*map(normal, DISTRIBUTIONS.get(m, [m]))} & declared} == set()


def test_the_extra_of_a_missing_module_is_the_one_that_brings_it() -> None:
    brought = {
        module: extra
        for module, names in DISTRIBUTIONS.items()
        for extra, declared in DECLARED.items()
        if extra and {*map(normal, names)} & declared and not module.startswith("_")
    }
    assert {module: brought[module] for module in EXTRAS} == EXTRAS


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


IMPORT_STAGES = """
import importlib, sys
for stage in sys.argv[1:]:
    importlib.import_module(f"litmeter.stages.{stage}")
    print(stage, *sorted({"torch", "torch._dynamo", "timm"} & set(sys.modules)))
"""
WITHOUT_TORCH = (
    *("machine", "compile", "packages", "precisions", "benchmark", "comparison", "report"),
    *("capacity", "tune"),
)


def test_stages_import_torch_its_compiler_and_timm_only_where_they_need_them() -> None:
    """One after another in one process, so that none has imported what the next one may not."""
    done = run(IMPORT_STAGES, *WITHOUT_TORCH, "data", "ceilings")
    assert done.stdout.splitlines() == [*WITHOUT_TORCH, "data torch", "ceilings timm torch"], done.stderr


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


def test_workers_do_not_import_the_compiler_and_it_works_afterwards() -> None:
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
NEED_AN_EXTRA = {
    *(f"litmeter.classifier.{name}" for name in ("ceilings", "data.sources", "pipeline")),
    "litmeter.peaks",
    *(f"litmeter.classifier.model.{name}" for name in ("graph", "model", "predictor", "preprocess")),
    *(f"litmeter.classifier.model.compiled.{name}" for name in ("model", "package")),
    *(f"litmeter.stages.{name}" for name in ("ceilings", "data", "export", "train")),
    *(f"litmeter.classifier.training.{name}" for name in ("fit", "weights")),
}


def test_all_but_the_classifier_is_imported_without_any_extra() -> None:
    done = run(REFUSING + IMPORT_ALL, ",".join(EXTRAS))
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) - NEED_AN_EXTRA == set()


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
