"""What a Python project says that it needs, and how two of its revisions differ in it."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from litmeter.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOR_DEVELOPERS = re.compile(r"dev|test|doc|lint|type|audit", re.IGNORECASE)
"""In the names of extras and of requirements files that no server needs."""


def changed_requirements(before: Path, after: Path) -> list[str]:
    """What two trees need in different versions, or one alone; raise UsageError where one cannot be read."""
    old, new = requirements_of(before), requirements_of(after)
    return [
        f"{name}: {old.get(name, 'not needed')} -> {new.get(name, 'not needed')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def requirements_of(tree: Path) -> dict[str, str]:
    """Versions and conditions by name, of pyproject.toml, extras included, and requirements*.txt."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, needed in map(_parsed, _lines(tree)):
        found[name].add(needed)
    return {name: ", ".join(sorted(needed)) for name, needed in found.items()}


def _parsed(line: str) -> tuple[str, str]:
    """Name and the rest; what is no requirement by name, such as an option of pip's, stands for itself."""
    try:
        one = Requirement(line)
    except InvalidRequirement:
        return line, "given"
    return canonicalize_name(one.name), str(one).removeprefix(one.name) or "any version"


def _lines(tree: Path) -> Iterator[str]:
    """The requirements, one a line; those of Poetry's own notation as they stand."""
    file = tree / "pyproject.toml"
    try:
        if file.exists():
            content = tomllib.loads(file.read_text(encoding="utf-8"))
            project = content.get("project", {})
            yield from project.get("dependencies", [])
            for extra, lines in project.get("optional-dependencies", {}).items():
                yield from () if FOR_DEVELOPERS.search(extra) else lines
            poetry = content.get("tool", {}).get("poetry", {}).get("dependencies", {})
            yield from (f"{name} = {version}" for name, version in poetry.items())
        for file in sorted([*tree.glob("*requirements*.txt"), *tree.glob("requirements/*.txt")]):
            for line in [] if FOR_DEVELOPERS.search(file.stem) else file.read_text("utf-8").splitlines():
                without_comment = re.sub(r"(^|\s)#.*", "", line).split("--hash")[0].strip(" \\")
                yield from [without_comment] if without_comment else []
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot be read: {' '.join(str(error).split())}") from error
