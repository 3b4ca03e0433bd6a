"""Stage ``data``: check the photographs that params.yaml names, split them, write the index."""

from __future__ import annotations

from litmeter.classifier.data.index import Index
from litmeter.classifier.data.settings import DataParams
from litmeter.classifier.data.sources import check_readable, make_index
from litmeter.paths import INDEX
from litmeter.settings import read_only
from litmeter.system.files import write_json


def main() -> Index:
    """Write the index of the photographs."""
    index = make_index(read_only(DataParams).data)
    check_readable(index)
    write_json(INDEX, index.model_dump())
    return index
