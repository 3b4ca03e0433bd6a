"""Which packages each configuration runs: in a file each, which changes with these alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from litmeter.classifier.model.card import CARD_NAME
from litmeter.classifier.model.compiled.manifest import Package
from litmeter.errors import ModelError
from litmeter.params import load_params
from litmeter.paths import COMPILERS, MODEL, PACKAGES
from litmeter.stages.packages import main
from litmeter.system.files import read_json, write_json
from tests.support.models import write_manifest
from tests.support.project import ROOT

ALONE = [Package(precision=name, batch_size=1, sha256=f"{name}-1") for name in ("full", "half")]


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The candidate runs packages in full precision, e7_tuned in half; all others run in torch."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())
    write_json(COMPILERS, {"gpu": None, "bfloat16": True})
    write_json(MODEL.exported / CARD_NAME, {})


def written(*packages: Package) -> dict[str, list[str]]:
    """The hashes by configuration, with a package for a single image in full and in half, and these."""
    write_manifest(MODEL, packages=[one.model_dump() for one in (*ALONE, *packages)])
    main()
    return {path.stem: read_json(path)["sha256"] for path in PACKAGES.iterdir()}


def test_packages_that_others_or_none_run_leave_a_file_as_it_is() -> None:
    in_torch = {name: [] for name in load_params().configurations()}
    assert written() == in_torch | {"candidate": ["full-1"], "e7_tuned": ["half-1"]}
    slower = Package(precision="full", batch_size=4, sha256="full-4", skipped_reason="slower")
    int8 = Package(precision="int8", batch_size=1, sha256="int8-1")
    assert written(slower, int8) == written()
    faster = slower.model_copy(update={"skipped_reason": None})
    assert written(faster) == in_torch | {"candidate": ["full-1", "full-4"], "e7_tuned": ["half-1"]}


def test_configurations_that_params_yaml_no_longer_has_have_none() -> None:
    before = written()
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("  e3_workers:", "  renamed:"))
    assert written().keys() == before.keys() - {"e3_workers"} | {"renamed"}


def test_packages_of_another_model_leave_what_was_written() -> None:
    before = written()
    write_manifest(MODEL, model="another")
    with pytest.raises(ModelError, match="compiled for another model"):
        main()
    assert {path.stem: read_json(path)["sha256"] for path in PACKAGES.iterdir()} == before
