"""Which packages a tree needs, and how two trees differ in them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from litmeter.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOR_DEVELOPERS = re.compile(r"dev|test|doc|lint|type|audit", re.IGNORECASE)
"""In the names of extras and requirements files that no server needs."""


def changed_requirements(before: Path, after: Path) -> list[str]:
    """Lines that only one tree has, with - or + as in a diff; raise UsageError for an unreadable file."""
    old, new = set(requirements_of(before)), set(requirements_of(after))
    return [f"-{line}" for line in sorted(old - new)] + [f"+{line}" for line in sorted(new - old)]


def requirements_of(tree: Path) -> Iterator[str]:
    """The requirements of pyproject.toml, extras included, and of requirements*.txt, one a line."""
    file = tree / "pyproject.toml"
    try:
        content = tomllib.loads(file.read_text("utf-8")) if file.exists() else {}
        project = content.get("project", {})
        yield from project.get("dependencies", [])
        for extra, lines in project.get("optional-dependencies", {}).items():
            yield from () if FOR_DEVELOPERS.search(extra) else lines
        poetry = content.get("tool", {}).get("poetry", {}).get("dependencies", {})
        yield from (f"{name} = {version}" for name, version in poetry.items())
        for file in [*tree.glob("*requirements*.txt"), *tree.glob("requirements/*.txt")]:
            text = "" if FOR_DEVELOPERS.search(file.stem) else file.read_text("utf-8")
            yield from filter(None, (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines()))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot be read: {' '.join(str(error).split())}") from error
