"""Stage ``data``: check the photographs that params.yaml names, split them, write the index."""

from __future__ import annotations

from litmeter.data.index import Index
from litmeter.data.sources import check_readable, make_index
from litmeter.params import load_params
from litmeter.paths import INDEX
from litmeter.system.files import write_json


def main() -> Index:
    """Write the index of the photographs."""
    index = make_index(load_params().data)
    check_readable(index)
    write_json(INDEX, index.model_dump())
    return index
