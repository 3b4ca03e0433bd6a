"""Pictures of the results."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from servebench.paths import PICTURES_FOLDER
from servebench.report.explain import explain
from servebench.report.plots.draw import draw_all
from tests.support.synthetic_results import CEILINGS, compared, level, result

COMPARED = ["batch_sizes", "comparison", "latency", "ratios", "stages", "waterfall"]
SLOW = level(1, 20.0, 60.0)
TURNS = [compared("e1_base", 20.0, 2), compared("e2_none", None, None)]
FAILED = level(1, 1.0, None, invalid_reason="3 failed", batch_size=None, cpu_percent=None)


@pytest.fixture(autouse=True)
def _empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_pictures_are_drawn_and_those_of_others_removed() -> None:
    PICTURES_FOLDER.mkdir(parents=True)
    (PICTURES_FOLDER / "gone.png").write_bytes(b"old")
    results = [result("e1_base", [SLOW], best=SLOW), result("e2_none", [FAILED], stages={})]
    draw_all(results, explain(results, CEILINGS).bounds, TURNS, "e1_base", 400.0)
    names = sorted(path.stem for path in PICTURES_FOLDER.iterdir())
    assert names == sorted(["e1_base", "e2_none", *COMPARED])


def test_the_same_results_make_the_same_pictures() -> None:
    results = [result("e1_base", [SLOW], best=SLOW), result("e2_none", [FAILED], stages={})]
    bounds = explain(results, CEILINGS).bounds
    draw_all(results, bounds, TURNS, "e1_base", 400.0)
    before = {path.name: path.read_bytes() for path in PICTURES_FOLDER.iterdir()}
    draw_all(results, bounds, TURNS, "e1_base", 400.0)
    assert {path.name: path.read_bytes() for path in PICTURES_FOLDER.iterdir()} == before


def test_another_rate_makes_other_pictures() -> None:
    pictures = []
    for rps in (20.0, 40.0):
        own = level(1, rps)
        results = [result("e1_base", [own], best=own)]
        draw_all(results, explain(results, CEILINGS).bounds, [compared("e1_base", rps, 1)], "e1_base", 400.0)
        pictures.append({path.stem: path.read_bytes() for path in PICTURES_FOLDER.iterdir()})
    changed = {name for name in pictures[0] if pictures[0][name] != pictures[1][name]}
    assert changed == {"e1_base", "comparison", "latency", "ratios", "waterfall"}


def test_pictures_of_nothing_but_failures_are_drawn() -> None:
    results = [result("e1_none", [FAILED], stages={})]
    silent = [compared("e1_none", None, None)]
    draw_all(results, explain(results, CEILINGS).bounds, silent, "e1_none", 400.0)
    for name in ("e1_none", *COMPARED):
        with Image.open(PICTURES_FOLDER / f"{name}.png") as picture:
            picture.load()
            assert min(picture.size) > 100
