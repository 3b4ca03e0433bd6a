"""How many machines a rate needs, at what price, and which kind is cheapest."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from litmeter.cli.main import main
from litmeter.errors import ReportError
from litmeter.measure.capacity import CapacityMetrics
from litmeter.report.machines import capacity_sentence, machines_for, million_cell, offers_text, ranked
from litmeter.report.snapshot import OUTDATED
from litmeter.settings import CANDIDATE
from litmeter.system.files import read_json, write_json
from tests.support.capacity import CAPACITY, OFFERS, UNREACHABLE, write_capacity
from tests.support.results_project import AVX2, BFLOAT16, write_project

WIDE = replace(
    CAPACITY, status="unresolved", reason="wide", capacity_rps=133.0, low_rps=112.0, high_rps=158.0
)
ENDLESS = replace(CAPACITY, status="above_range", reason="all kept", capacity_rps=None, high_rps=None)
ASKED = ("--rate", "1000", "--price")


@pytest.fixture(autouse=True)
def _projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Projects of two machines, small and large, each with the capacity of its candidate."""
    for name, machine, metrics in (("small", AVX2, WIDE), ("large", BFLOAT16, CAPACITY)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        write_project(machine)
        write_capacity(CANDIDATE, metrics)
    monkeypatch.chdir(tmp_path)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit status, stdout in one line and stderr of ``litmeter machines``."""
    status = main(["machines", *words])
    out, err = capsys.readouterr()
    return status, " ".join(out.split()), err


def test_machines_are_planned_with_nine_tenths_of_the_low_end() -> None:
    assert [machines_for(rate, WIDE) for rate in (100.8, 100.9, 1000.0)] == [1, 2, 10]
    assert machines_for(1.0, UNREACHABLE) is None
    assert capacity_sentence("x", UNREACHABLE) == "x has no rate of requests with 95% of them within 100 ms"


@pytest.mark.parametrize(
    ("metrics", "cell"),
    [(WIDE, "0.332 to 0.468"), (ENDLESS, "at most 0.181"), (UNREACHABLE, "-")],
    ids=["wide", "without an end", "none"],
)
def test_the_price_of_a_million_is_as_sure_as_the_capacity(metrics: CapacityMetrics, cell: str) -> None:
    assert million_cell(replace(OFFERS[0], metrics=metrics)) == cell


def test_those_whose_prices_overlap_have_the_same_rank() -> None:
    prices = {"a": 0.17, "b": 0.175, "c": 0.09, "d": 0.18}
    offers = [replace(OFFERS[0], label=label, price=price) for label, price in prices.items()]
    places = [(rank, one.label) for rank, one in ranked([*offers, OFFERS[2]])]
    assert places == [(1, "c"), (2, "a"), (2, "b"), (2, "d"), (None, "m3")]
    [tie] = [text for text in offers_text(offers[:2], 1000.0) if "not resolved" in text]
    assert re.findall("`(.)`", tie) == ["a", "b"]


def test_prices_of_different_objectives_are_refused() -> None:
    slower = replace(OFFERS[0], metrics=replace(CAPACITY, slo_ms=200.0))
    with pytest.raises(ReportError, match=r"not 95% within 100 ms and 95% within 200 ms"):
        ranked([slower, OFFERS[1]])


def test_one_project_says_how_many_machines_and_the_price(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(capsys, *ASKED, "0.17")
    assert (status, out) == (2, "")
    assert "metrics/machine.json: No such file" in err
    status = main(["--project", "small", "machines", *ASKED, "0.17"])
    out = " ".join(capsys.readouterr().out.split())
    assert status == 0
    assert "| candidate | 112 to 158 (wide) | 10 | 11 | 0.332 to 0.468 | 1 |" in out
    assert "10 machines, 11 with one spare; a million cost at most 0.468 at 0.17 an hour" in out


def test_machines_are_compared_with_the_cheapest_first(capsys: pytest.CaptureFixture[str]) -> None:
    prices = ("small=0.17", "--price", "large=0.2")
    output = ("--picture", "prices.png", "--out", "prices.html")
    status, out, _ = said(capsys, "small", "large", *ASKED, *prices, *output)
    assert status == 0
    assert re.findall(r"\| (small|large) \|", out) == ["large", "small"]
    assert "`" not in out
    for name in ("small", "large"):
        assert f"{name} 2026-11-30 07:22 UTC" in out
    assert Path("prices.png").read_bytes().startswith(b"\x89PNG")
    page = Path("prices.html").read_text()
    assert re.findall(r"<td><code>(small|large)</code>", page) == ["large", "small"]
    assert AVX2["cpu"] in page
    assert page.count("<svg") == 2  # wide and narrow
    assert "same hardware" not in out
    assert "same hardware" in said(capsys, "small", "./small", *ASKED, "1")[1]


def test_a_capacity_of_another_environment_is_shown_with_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    file = Path("small/metrics/machine.json")
    assert OUTDATED not in said(capsys, "small", "large", *ASKED, "1")[1]
    write_json(file, read_json(file) | {"anyio": "99.0"})
    status, out, _ = said(capsys, "small", "large", *ASKED, "1")
    assert status == 0
    assert f"{OUTDATED}: small candidate." in out


def test_a_revision_is_read_as_a_folder_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("large")
    Path("dvc.lock").write_text("stages: {}\n")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (
        ("git", "init", "-q"),
        (sys.executable, "-m", "dvc", "init", "-q"),
        ("git", "add", "."),
        ("git", *identity, "commit", "-q", "-m", "large"),
        ("git", "branch", "another"),
    ):
        subprocess.run(command, check=True, capture_output=True)
    status, out, err = said(capsys, "another", "../small", *ASKED, "0.17")
    assert (status, err) == (0, "")
    assert re.findall(r"\| (another|\.\./small) \|", out) == ["another", "../small"]
    status, _, err = said(capsys, "unknown", *ASKED, "0.17")
    assert status == 2
    assert err.startswith("litmeter: unknown: neither a revision nor an experiment")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("small --price 0", "--price: expected a number above 0, or REV=NUMBER, got '0'"),
        ("small --price nan", "got 'nan'"),
        ("small --price cheap", "got 'cheap'"),
        ("small --price small=", "got 'small='"),
        ("small --price large=1", "one number, or REV=NUMBER for each of small, got large"),
        ("small large --price small=1", "for each of small, large, got small"),
        ("small --price 1 --price small=1", "for each of small, got a number, small"),
        ("--price small=1", "--price: expected one number, got small"),
    ],
)
def test_a_wrong_price_is_one_line(capsys: pytest.CaptureFixture[str], words: str, part: str) -> None:
    status, out, err = said(capsys, *words.split(), "--rate", "10")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert part in err


def test_a_machine_without_a_capacity_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("--configuration", "e7_tuned"), ()):
        status, out, err = said(capsys, "small", *ASKED, "1", *words)
        assert (status, "candidate" in out) == ((2, False) if words else (0, True))
        assert ("small: no capacity of e7_tuned" in err) is bool(words)
