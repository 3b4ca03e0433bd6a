"""`dvc plots show` draws every plot of dvc.yaml in a real Chromium that reaches no network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc_render.base import Renderer

from litmeter.cli.main import main
from litmeter.stages import report
from tests.browser.conftest import forget, requests_of
from tests.support.project import ROOT
from tests.support.results_project import write_own_project
from tests.support.servers import APIS

PATIENCE_S = 60
SCHEMES = ("http://", "https://", "ws://", "wss://")

# By plot that is drawn: the size of its picture, and how many shapes of its marks can be seen in it.
LOOK = """
function seen(shape) {
  const box = shape.getBoundingClientRect(), style = getComputedStyle(shape);
  return box.width + box.height > 1 && (style.fill !== "none" || style.stroke !== "none");
}
return Object.fromEntries(arguments[0].map((place) => {
  const picture = document.querySelector(place + " svg.marks");
  if (!picture) return [place, null];
  const box = picture.getBoundingClientRect();
  const shapes = [...picture.querySelectorAll(".role-mark:not(.mark-group) > *")];
  return [place, {size: [box.width, box.height], marks: shapes.filter(seen).length}];
}));
"""


@pytest.fixture
def offline(chromium: Any) -> Iterator[Any]:
    """A browser without a network; what it asks for all the same is in its log."""
    forget(chromium)
    chromium.execute_cdp_cmd("Network.enable", {})
    chromium.execute_cdp_cmd("Network.setBlockedURLs", {"urls": [f"{scheme}*" for scheme in SCHEMES]})
    nothing = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    chromium.execute_cdp_cmd("Network.emulateNetworkConditions", nothing)
    yield chromium
    anything = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    chromium.execute_cdp_cmd("Network.emulateNetworkConditions", anything)
    chromium.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    chromium.get("about:blank")


def plots_page(out: Path, project: Path) -> str:
    """The address of the page as `dvc plots show` writes it for the results of a project."""
    command = [sys.executable, "-m", "dvc", "plots", "show", "--out", str(out)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=120)
    page = out / "index.html"
    assert page.exists(), done.stderr  # DVC exits with 0 where it could not read dvc.yaml
    return page.as_uri()


def places(project: Path) -> list[str]:
    """Where each plot of dvc.yaml belongs in the page."""
    plots = yaml.safe_load((project / "dvc.yaml").read_text())["plots"]
    return [f"#{Renderer.remove_special_chars(name)}" for plot in plots for name in plot]


def requested(chromium: Any) -> list[str]:
    """What the page asked the network for."""
    return [url for url in requests_of(chromium) if url.startswith(SCHEMES)]


@pytest.fixture
def initialised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A project that `litmeter init` wrote below a repository, by the commands that it says come next."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    (project := tmp_path / "below").mkdir()
    for command in ("git init", "dvc init"):
        subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.chdir(project)
    shutil.copy(APIS / "stub_server.py", "server.py")
    Path("body.json").write_text("{}")
    assert main(["init", "python server.py {port}", "--ready", "/", "--body", "body.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line in lines[lines.index("next:") + 1 :]:
        if "init" not in line and "repro" not in line:
            subprocess.run(["sh", "-c", line], check=True, capture_output=True)
    write_own_project({"server": {"command": "python server.py {port}"}})
    report.main()
    return project


def check_drawn(chromium: Any, project: Path, out: Path) -> None:
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.support.wait import WebDriverWait

    def not_drawn() -> dict[str, Any]:
        """What is to be seen of each plot that is not drawn: Vega adds an empty picture before it draws."""
        looks = chromium.execute_script(LOOK, places(project))
        return {
            place: look
            for place, look in looks.items()
            if look is None or min(look["size"]) < 100 or not look["marks"]
        }

    chromium.get(plots_page(out, project))
    with suppress(TimeoutException):
        WebDriverWait(chromium, PATIENCE_S, 0.2).until(lambda _: not not_drawn())
    assert not_drawn() == {}, chromium.get_log("browser")[:3]
    assert [entry["message"] for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert requested(chromium) == []


def test_every_plot_is_drawn_without_a_network(offline: Any, tmp_path: Path) -> None:
    check_drawn(offline, ROOT, tmp_path / "plots")


def test_so_is_every_plot_of_a_project_that_init_wrote(
    offline: Any, initialised: Path, tmp_path: Path
) -> None:
    check_drawn(offline, initialised, tmp_path / "plots")
