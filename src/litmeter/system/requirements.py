"""What a Python project says that it needs, and how two of its revisions differ in it."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from litmeter.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAMED = re.compile(r"(\w[\w.-]*)(|[\[<>=!~;@^*\d{].*)")
"""A requirement without spaces: its name, and the rest."""
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
    """Versions and conditions by name, of pyproject.toml, requirements*.txt, setup.cfg and setup.py.

    An extra may be what serves. What is no requirement by name, such as a URL, stands for itself.
    """
    found: dict[str, set[str]] = {}
    for line in _lines(tree):
        match = NAMED.fullmatch("".join(line.split()))
        name, versions = (match[1], match[2]) if match else (line, "")
        name = re.sub("[-_.]+", "-", name).lower()  # as packages are compared
        found.setdefault(name, set()).add(versions or "any version")
    return {name: ", ".join(sorted(versions)) for name, versions in found.items()}


def _lines(tree: Path) -> Iterator[str]:
    """The requirements, one a line, as pip takes them."""
    file = tree
    try:
        if (file := tree / "pyproject.toml").exists():
            yield from _of_pyproject(tomllib.loads(file.read_text(encoding="utf-8")))
        for file in sorted([*tree.glob("*requirements*.txt"), *tree.glob("requirements/*.txt")]):
            if not FOR_DEVELOPERS.search(file.stem):
                yield from _of_text(file.read_text(encoding="utf-8"))
        if (file := tree / "setup.cfg").exists():
            config = configparser.ConfigParser(interpolation=None)
            config.read_string(file.read_text(encoding="utf-8"))
            yield from _of_text(config.get("options", "install_requires", fallback=""))
        if (file := tree / "setup.py").exists():
            yield from _of_setup(ast.parse(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, SyntaxError, configparser.Error) as error:
        raise UsageError(f"{file}: cannot be read: {' '.join(str(error).split())}") from error


def _of_pyproject(content: dict[str, Any]) -> Iterator[str]:
    poetry = content.get("tool", {}).get("poetry", {}).get("dependencies", {})
    yield from (f"{name} =={version}" for name, version in poetry.items())  # ^1.2 is compared as it stands
    project = content.get("project", {})
    yield from project.get("dependencies", [])
    for extra, lines in project.get("optional-dependencies", {}).items():
        if not FOR_DEVELOPERS.search(extra):
            yield from lines


def _of_text(text: str) -> Iterable[str]:
    lines = (re.sub(r"(^|\s)#.*", "", line).split(" --hash")[0].strip(" \\") for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("--hash")]


def _of_setup(module: ast.Module) -> Iterator[str]:
    keywords = (node for node in ast.walk(module) if isinstance(node, ast.keyword))
    for keyword in keywords:
        if keyword.arg == "install_requires" and isinstance(keyword.value, ast.List | ast.Tuple):
            yield from (
                ast.literal_eval(item) for item in keyword.value.elts if isinstance(item, ast.Constant)
            )
