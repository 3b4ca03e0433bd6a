"""The charts' colours: everybody can tell them apart, on light and on dark paper."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from litmeter.report.charts import chart as colours
from litmeter.report.charts.parts import steps
from tests.support.project import ROOT

TEMPLATE = ROOT / "src/litmeter/report/html/report.html"

# Linear sRGB as seen by those who lack one kind of cones (Machado, Oliveira and Fernandes, 2009), and to XYZ.
VISION = {
    "all": np.eye(3),
    "no long": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no middle": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "no short": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}


XYZ = np.array([[0.41246, 0.35758, 0.18044], [0.21267, 0.71515, 0.07217], [0.01933, 0.11919, 0.95030]])


WHITE = XYZ.sum(axis=1)


def light_of(colour: str) -> npt.NDArray[np.float64]:
    shares = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def lab_of(colour: str, vision: str) -> npt.NDArray[np.float64]:
    """CIE L*a*b* of the colour as somebody sees it."""
    shares = XYZ @ np.clip(np.array(VISION[vision]) @ light_of(colour), 0, 1) / WHITE
    x, y, z = np.where(shares > 0.008856, np.cbrt(shares), 7.787 * shares + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(one: str, other: str) -> float:
    """Of two colours, by WCAG."""
    dark, light = sorted(float(XYZ[1] @ light_of(colour)) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("vision", VISION)
def test_everybody_can_tell_the_colours_apart(vision: str) -> None:
    roles = (colours.BLUE, colours.PURPLE, colours.ORANGE, colours.GREY)
    neighbours = [*itertools.pairwise(colours.SEQUENCE), *itertools.pairwise(colours.STEPS)]
    for pairs, least in ((itertools.combinations(roles, 2), 20), (neighbours, 12)):
        for one, other in pairs:
            assert np.linalg.norm(lab_of(one, vision) - lab_of(other, vision)) >= least, (one, other)


@pytest.mark.parametrize("paper", ["#ffffff", "#14171a"])
def test_what_matters_is_seen_on_light_and_dark_paper(paper: str) -> None:
    assert f"--paper: {'#fff' if paper == '#ffffff' else paper};" in TEMPLATE.read_text()
    for colour in (colours.BLUE, colours.PURPLE, colours.ORANGE, colours.GREY):
        assert contrast(colour, paper) >= 3


@pytest.mark.parametrize("count", [1, 2, 6, 13])
def test_each_size_has_a_colour_of_its_own(count: int) -> None:
    found = steps(count)
    assert len(set(found)) == count
    if count == 6:
        assert found == list(colours.STEPS)
