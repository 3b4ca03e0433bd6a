"""Stage ``data``: check the photographs that params.yaml names, split them, write the index."""

from __future__ import annotations

from servebench.data.sources import check_readable, make_index
from servebench.params import load_params


def main() -> None:
    """Read, check, split, write.

    Raises:
        DataError: the source is not there, a photo cannot be read, or a class lacks one in some split.
    """
    index = make_index(load_params().data)
    check_readable(index)
    index.write()
    print(index.describe())
