"""What a search keeps: a stopped one goes on with it, and others do not disturb it."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from litmeter.errors import StorageError
from litmeter.params import ServeSettings
from litmeter.tune.study import NAME, Round, Study, name_of

ONE, OTHER = ServeSettings(), ServeSettings(max_batch_size=4, batch_timeout_s=0.01, threads_per_worker=1)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


def of_rate(rate: float) -> Round:
    return Round({"a": rate}, {"a": 10.0}, {"a": 300.0}, {"a": 0}, 2.5)


def test_a_search_goes_on_with_the_rounds_and_costs_of_those_before_it(url: str) -> None:
    first = Study(url, "machine-1")
    for rate in (1.0, 2.0):
        first.keep_round(of_rate(rate))
    first.keep_cost("model", "full, timm's", {"1": 0.01})
    second = Study(url, "machine-1")
    second.keep_round(of_rate(3.0))
    assert [one.rates["a"] for one in Study(url, "machine-1").rounds()] == [1.0, 2.0, 3.0]
    assert second.costs("model") == {"full, timm's": {"1": 0.01}}
    assert second.costs("request") == {}


def test_another_machine_or_model_shares_nothing_but_the_database(url: str) -> None:
    first = Study(url, "machine-1")
    first.keep_round(of_rate(1.0))
    first.keep_trial("a", ONE, 1.0)
    other = Study(url, "machine-2")
    assert (other.rounds(), other.trials()) == ([], [])
    other.keep_trial("a", ONE, 1.0)
    assert len(optuna.load_study(study_name=NAME, storage=url).trials) == 2


def test_a_trial_has_the_settings_and_the_ratio_of_a_configuration(url: str) -> None:
    study = Study(url, "machine-1")
    study.keep_trial("one", ONE, 1.2, status="winner")
    study.keep_trial("other", OTHER, None, status="slower")
    one, other = study.trials()
    assert (one.value, one.state.name, other.state.name) == (1.2, "COMPLETE", "FAIL")
    assert (one.params["max_batch_size"], other.params["max_batch_size"]) == (1, 4)
    assert (one.params["threads_per_worker"], other.params["batch_timeout_s"]) == (0, 0.01)
    assert (one.user_attrs["name"], other.user_attrs["status"]) == ("one", "slower")
    assert optuna.load_study(study_name=NAME, storage=url).best_trial.number == one.number


@pytest.mark.parametrize(
    "url", ["nonsense", "postgresql+nodriver://host/name", "sqlite:////no/such/folder/study.db"]
)
def test_a_storage_that_cannot_be_reached_is_one_line(url: str) -> None:
    with pytest.raises(StorageError) as caught:
        Study(url, "machine-1")
    assert "\n" not in str(caught.value)


def test_the_password_of_a_database_is_not_shown() -> None:
    with pytest.raises(StorageError) as caught:
        Study("postgresql://user:secret@127.0.0.1:1/name", "machine-1")
    assert "secret" not in str(caught.value)


def test_a_name_says_every_knob() -> None:
    assert name_of(ONE) == "full timm's timm litserve 1xall b1 0ms"
    assert name_of(OTHER) == "full timm's timm litserve 1x1 b4 10ms"
