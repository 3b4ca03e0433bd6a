"""The record of a level while it runs."""

from __future__ import annotations

from litmeter.loadgen.recorder import Recorder


def test_a_load_without_a_request_has_an_empty_record() -> None:
    arrays = Recorder(users=2, timeout_s=1.0).arrays()
    assert {len(values) for values in arrays.values()} == {0}


def test_each_request_is_a_row() -> None:
    recorder = Recorder(users=2, timeout_s=1.0)
    assert recorder.add(0, 3, 1.0, 1.1, 1.5, 200, b"answer")
    assert not recorder.add(1, 4, 1.0, 1.1, 2.2, 0, b"")
    arrays = recorder.arrays()
    assert recorder.ended == 2
    assert arrays["body"].tolist() == [3, 4]
    assert arrays["end"].tolist() == [1.5, 2.2]
    assert arrays["status"].tolist() == [0, 2]
