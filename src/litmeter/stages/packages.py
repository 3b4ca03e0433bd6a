"""Stage ``packages``: the hashes of the compiled packages that each configuration runs, in a file each.

A benchmark depends on the file of its configuration alone, so that other packages leave it as it is.
"""

from __future__ import annotations

from litmeter.params import params_on
from litmeter.paths import COMPILERS, PACKAGES
from litmeter.system.files import atomic_folder, read_json, write_json


def main() -> None:
    """Write all files, and remove those of configurations that params.yaml no longer has."""
    params, device = params_on(read_json(COMPILERS))
    with atomic_folder(PACKAGES) as folder:
        for name, serve in params.configurations().items():
            write_json(folder / f"{name}.json", {"sha256": serve.identity(device).get("packages", [])})
