"""A worker's imports leave torch's compiler out, and it is there for whoever wants it later."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import torch
disable = torch.compiler.disable
import litmeter.model.model
import litmeter.model.preprocess
from litmeter.model.model import build_model
with torch.inference_mode():
    build_model("test_efficientnet", 2, 64).eval()(torch.zeros(1, 3, 64, 64))
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


def test_workers_do_not_import_it_and_it_works_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["[]", "True True", "1.0", "2.0"], done.stderr
