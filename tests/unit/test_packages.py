"""Which packages each configuration runs: in a file each, which changes with these alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from litmeter.classifier.model.card import CARD_NAME
from litmeter.classifier.model.compiled.manifest import Package
from litmeter.errors import ModelError
from litmeter.params import Params, load_params
from litmeter.paths import COMPILERS, MODEL, PACKAGES
from litmeter.stages.packages import main
from litmeter.system.files import read_json, write_json
from tests.support.models import write_manifest
from tests.support.project import ROOT

FULL, HALF = "full-1", "half-1"
SLOWER = Package(precision="full", batch_size=4, sha256="full-4", skipped_reason="slower")


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The candidate runs packages in full precision, e7_tuned in half; all others run in torch."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())
    write_json(COMPILERS, {"gpu": None, "bfloat16": True})
    write_json(MODEL.exported / CARD_NAME, {})
    return load_params()


def written(*packages: Package) -> dict[str, list[str]]:
    """The hashes by configuration, with a package for a single image in full and in half, and these."""
    alone = [
        Package(precision="full", batch_size=1, sha256=FULL),
        Package(precision="half", batch_size=1, sha256=HALF),
    ]
    write_manifest(MODEL, packages=[one.model_dump() for one in (*alone, *packages)])
    main()
    return {path.stem: read_json(path)["sha256"] for path in PACKAGES.iterdir()}


def test_packages_that_others_or_none_run_leave_a_file_as_it_is(params: Params) -> None:
    in_torch = {name: [] for name in params.configurations()}
    assert written() == in_torch | {"candidate": [FULL], "e7_tuned": [HALF]}
    int8 = Package(precision="int8", batch_size=1, sha256="int8-1")
    assert written(SLOWER, int8) == written()
    faster = SLOWER.model_copy(update={"skipped_reason": None})
    assert written(faster) == in_torch | {"candidate": [FULL, "full-4"], "e7_tuned": [HALF]}


@pytest.mark.usefixtures("params")
def test_configurations_that_params_yaml_no_longer_has_have_none() -> None:
    before = written()
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("  e3_workers:", "  renamed:"))
    assert written().keys() == before.keys() - {"e3_workers"} | {"renamed"}


@pytest.mark.usefixtures("params")
def test_packages_of_another_model_leave_what_was_written() -> None:
    written()
    before = {path: path.read_bytes() for path in PACKAGES.iterdir()}
    write_manifest(MODEL, model="another")
    with pytest.raises(ModelError, match="compiled for another model"):
        main()
    assert {path: path.read_bytes() for path in PACKAGES.iterdir()} == before
