"""The pieces of streamed answers: how answers are cut into them, and the figures of their times."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from litmeter.load.generator import LoadPlan
from litmeter.load.pieces import Pieces, read_event, unit_of
from litmeter.load.senders import merged
from litmeter.measure.comparison_rows import counted
from litmeter.measure.figures import stream_figures, stream_rates, stream_times_ms
from litmeter.measure.log import Log
from litmeter.measure.rows import TurnRow
from litmeter.measure.turn import Sample, Turn
from litmeter.report.claims import unexpected_streams
from litmeter.stats.records import FAILED, OK, Limits, LoadRecord
from litmeter.stats.streams import CHUNKS, EVENTS, NOT_STREAMED, READS, Streams


def chunk_of_openai(**delta: object) -> str:
    return json.dumps({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]})


STREAM = [
    ": a comment",
    "event: message\ndata: " + chunk_of_openai(role="assistant"),
    "data: " + chunk_of_openai(content="Bär"),
    "data: " + chunk_of_openai(content="n", reasoning_content=None),
    "data:" + chunk_of_openai(reasoning_content="hm"),
    "data: " + json.dumps({"choices": [{"text": "old"}]}),
    "data: two\ndata: lines",
    "data: "
    + json.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"completion_tokens": 7}}),
    "data: [DONE]",
]
SIZES = [len("Bär".encode()), 1, 2, 3, len("two\nlines")]


def cut(text: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[begin:end] for begin, end in pairwise(edges)]


@given(st.lists(st.integers(0, 10_000), max_size=40), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_events_are_the_same_however_the_stream_is_cut(places: list[int], end: str, whole: bool) -> None:
    """An answer's last event may lack the empty line."""
    text = f"{end}{end}".join(event.replace("\n", end) for event in STREAM) + (end + end if whole else "")
    pieces = Pieces(EVENTS)
    parts = cut(text.encode(), places)
    for number, part in enumerate(parts):
        pieces.add(part, float(number))
    pieces.end(float(len(parts)))
    assert pieces.sizes == SIZES
    assert pieces.times == sorted(pieces.times)
    assert (pieces.tokens, pieces.failed) == (7, False)


def test_an_event_counts_when_its_end_has_come() -> None:
    pieces = Pieces(EVENTS)
    for now, part in enumerate([b"data: a", b"\n", b"\ndata: b\n\ndata: c\n", b"\n"]):
        pieces.add(part, float(now))
    assert pieces.times == [2.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "event",
    [b'data: {"error": {"message": "Internal server error"}}', b"event: error\ndata: it broke"],
)
def test_an_error_is_no_piece_and_fails_the_answer(event: bytes) -> None:
    """LitServe's error lacks the empty line."""
    pieces = Pieces(EVENTS)
    pieces.add(b"data: a\n\n" + event, 0.0)
    pieces.end(1.0)
    assert (pieces.times, pieces.failed) == ([0.0], True)


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"{not json", 9),
        (b'{"own": "form"}', 15),
        (b'{"choices": "none"}', 19),
        (b'{"choices": [null, {"delta": null}, {"delta": {"content": 5}}]}', 1),
        (b'{"choices": [], "usage": {"completion_tokens": "many"}}', 0),
        (b'{"choices": [{"delta": {"tool_calls": [{"id": 1}]}}]}', len('[{"id": 1}]')),
        (b'{"choices": [{"delta": {"content": [{"a": 1}]}}]}', len('[{"a": 1}]')),
        (b'{"choices": [{"delta": {"content": "\\ud83d"}}]}', 3),
        (b'{"label": "cat", "error": 0.03}', 31),
        (b'{"type": "response.created"}', 0),
        (b'{"type": "response.output_text.delta"}', 38),
        (b'{"a":' + b"[" * 100_000, 100_005),
    ],
)
def test_data_of_any_form_is_read(data: bytes, size: int) -> None:
    assert read_event(b"data: " + data)[:2] == (size, 0)


def test_ten_megabytes_in_an_event_are_read_in_linear_time() -> None:
    pieces, began = Pieces(EVENTS), time.process_time()
    for _ in range(160):
        pieces.add(b"\n".join([b"data: " + b"x" * 1000] * 64) + b"\n", 0.0)
    pieces.add(b"\n", 1.0)
    assert pieces.sizes == [160 * 64 * 1001 - 1]
    assert time.process_time() - began < 10


def test_chunks_and_reads() -> None:
    chunks, reads = Pieces(CHUNKS), Pieces(READS)
    for one in (chunks, reads):
        one.add(b"ab", 0.0)
        one.add(b"c", 1.0)
        one.end_chunk(1.0)
        one.add(b"d", 2.0)
        one.end_chunk(2.0)
        one.end_chunk(3.0)  # the last, empty one
        one.end(3.0)
    assert (chunks.times, chunks.sizes) == ([1.0, 2.0], [3, 1])
    assert (reads.times, reads.sizes) == ([0.0, 1.0, 2.0], [2, 1, 1])


def test_what_a_piece_is_follows_from_the_head() -> None:
    assert unit_of(b"text/event-stream; charset=utf-8", chunked=True, has_length=False) == EVENTS
    assert unit_of(b"text/plain", chunked=True, has_length=False) == CHUNKS
    assert unit_of(b"", chunked=False, has_length=False) == READS
    assert unit_of(b"application/json", chunked=False, has_length=True) is None


def record(status: tuple[int, ...] = (OK, OK, FAILED), tokens: tuple[int, ...] = (4, 4, 0)) -> LoadRecord:
    """Three requests, sent at 0, 1 and 2 s in a window of 4 s; the last has no piece."""
    streams = Streams(
        unit=np.array([EVENTS, EVENTS, NOT_STREAMED]),
        count=np.array([3, 2, 0]),
        tokens=np.array(tokens),
        at=np.array([0.5, 0.6, 0.8, 0.25, 0.75]),
        size=np.array([1, 2, 3, 4, 5]),
    )
    sent = np.array([0.0, 1.0, 2.0])
    whole = {name: np.zeros(3, dtype=np.int64) for name in ("user", "code", "size", "body")}
    edges = np.array([0.0, 1.0, 2.0, 4.0])
    return LoadRecord(
        1,
        None,
        edges,
        start=sent,
        sent=sent,
        end=sent + 0.9,
        status=np.array(status),
        streams=streams,
        **whole,
    )


def test_times_of_pieces_are_those_of_good_requests() -> None:
    times = stream_times_ms(record())
    assert times["first"] == pytest.approx([500, 250])
    assert times["piece"] == pytest.approx([100, 500 / 3])  # three further tokens each
    assert times["gap"] == pytest.approx([100, 200, 500])
    without = stream_times_ms(record(status=(OK, FAILED, FAILED), tokens=(0, 0, 0)))
    assert without["first"] == pytest.approx([500])
    assert without["piece"] == pytest.approx([150])
    assert stream_figures([times]) == {
        "first_p50_ms": pytest.approx(375),
        "piece_p50_ms": pytest.approx(133.333),
        "gap_p50_ms": pytest.approx(200),
    }


@pytest.mark.parametrize(
    ("limits", "missed"),
    [
        (Limits(slo_ms=800.0), [True, True, True]),
        (Limits(slo_ms=1000.0), [False, True, False]),
        (Limits(slo_ms=1000.0, first_ms=300.0), [True, True, True]),  # without pieces, the first is the whole
        (Limits(first_ms=950.0), [False, True, False]),
        (Limits(piece_ms=120.0), [False, True, False]),
        (Limits(first_ms=950.0, piece_ms=50.0), [True, True, False]),
    ],
)
def test_a_request_misses_if_it_misses_any_limit(limits: Limits, missed: list[bool]) -> None:
    assert limits.missed(record(status=(OK, FAILED, OK))).tolist() == missed


def test_rates_count_what_came_in_the_windows() -> None:
    assert stream_rates(record()) == {"events_rps": 1.25, "bytes_rps": 3.75, "tokens_rps": 2.0}
    assert "tokens_rps" not in stream_rates(record(tokens=(4, 0, 0)))
    assert stream_rates(record(status=(OK, FAILED, FAILED)))["events_rps"] == 0.75
    mixed = {"events_rps": 1.25, "share": 0.6667}  # what the third brought is not known
    assert stream_rates(record(status=(OK, OK, OK))) == mixed
    assert stream_times_ms(record(status=(OK, OK, OK)))["first"] == pytest.approx([500, 250])


def test_answers_with_fewer_pieces_than_the_references_are_counted() -> None:
    def sample(number: int, name: str, count: list[int]) -> Sample:
        own = record(status=(OK, OK, OK))
        flat = np.ones(sum(count))
        pieces = Streams(np.full(3, CHUNKS), np.array(count), np.zeros(3, dtype=int), flat, flat.astype(int))
        own = replace(own, streams=pieces, body=np.array([0, 0, 1]))
        turn = Turn(name, LoadPlan(1, 1, 0.0, 1.0, 1.0, 3, 9.0, 0))
        return Sample(turn, TurnRow(number, 0.0, 1.0, 0, name, "served"), own)

    log = Log()
    log.samples = [sample(0, "a", [3, 2, 5]), sample(1, "b", [2, 2, 6]), sample(2, "b", [3, 4, 5])]
    assert log.short_answers("a") == {0: 1, 1: 2, 2: 0}
    assert log.first_ms()[1] == pytest.approx([900.0] * 3)  # chunks at one time are no stream


@pytest.mark.parametrize(
    ("bodies", "streams", "said"),
    [
        ([b'{"stream": true}'] * 2, False, "do not stream"),
        ([b'{"stream": true}'], True, ""),
        ([b'{"stream": false}'], True, "stream unasked"),
        ([b'{"stream": true}', b'{"stream": false}'], False, ""),
        ([b'{"x": 1}'], True, ""),
        ([b'"stream"'], True, ""),
        ([b'{"stream": "yes"}'], True, ""),
    ],
)
def test_streams_that_were_not_asked_for_are_named(bodies: list[bytes], streams: bool, said: str) -> None:
    stream = {"first_p50_ms": 1.0} if streams else {}
    row = TurnRow(0, 0.0, 1.0, 0, "a", "served", answers=1, stream=stream)
    found = " ".join(claim.plain for claim in unexpected_streams(bodies, [row]))
    assert said in found
    assert bool(said) == bool(found)


@pytest.mark.parametrize(
    ("unit", "at", "streams"),
    [
        (EVENTS, [[0.5], [0.5], [0.5]], True),
        (CHUNKS, [[0.5, 0.5], [0.5, 0.5], [0.5]], False),  # whole answers of unknown length
        (CHUNKS, [[0.5, 0.6], [0.5, 0.7], [0.5]], True),
        (READS, [[0.5, 0.6], [0.5], [0.5]], False),
    ],
)
def test_answers_in_pieces_stream_if_most_do(unit: int, at: list[list[float]], streams: bool) -> None:
    count = np.array([len(own) for own in at])
    flat = np.array([time for own in at for time in own])
    one = Streams(np.full(3, unit), count, np.zeros(3, dtype=int), flat, np.ones(len(flat), dtype=int))
    body = np.zeros(3, dtype=int)
    assert one.streamed(np.array([True, True, True]), body).tolist() == [streams] * 3
    assert not one.streamed(np.array([False, False, False]), body).any()


def test_where_some_bodies_ask_for_a_stream_the_answers_to_those_do() -> None:
    """Whole answers of unknown length among them; one that streams came in one read."""
    at = [[0.5, 0.6], [0.7, 0.8], [0.5, 0.5], [0.5], [0.5], [0.6]]
    count, body = np.array([len(own) for own in at]), np.array([1, 1, 1, 0, 0, 0])
    flat = np.array([time for own in at for time in own])
    one = Streams(np.full(6, CHUNKS), count, np.zeros(6, dtype=int), flat, np.ones(len(flat), dtype=int))
    assert one.streamed(np.full(6, fill_value=True), body).tolist() == [True] * 3 + [False] * 3


@given(st.permutations(range(3)))
def test_pieces_follow_their_requests_into_another_order(order: list[int]) -> None:
    own = record().streams
    moved = own.reordered(np.array(order))
    at = np.split(own.at, np.cumsum(own.count)[:-1])
    assert moved.at.tolist() == [value for number in order for value in at[number]]
    again = Streams.from_json(json.loads(json.dumps(vars(moved), default=np.ndarray.tolist)))
    assert again.size.tolist() == moved.size.tolist()


def test_the_records_of_several_senders_keep_their_pieces() -> None:
    plan = LoadPlan(2, 1, 0.0, 1.0, 1.0, 3, 9.0, 0)
    both = merged([record(), record()], plan)
    assert both.streams.count.tolist() == [3, 3, 2, 2, 0, 0]
    assert both.streams.at.tolist() == [0.5, 0.6, 0.8] * 2 + [0.25, 0.75] * 2


@pytest.mark.parametrize(
    ("first", "second", "by"),
    [
        ({}, {}, "requests"),
        ({"tokens_rps": 9.0, "bytes_rps": 1.0}, {"tokens_rps": 8.0, "bytes_rps": 1.0}, "tokens"),
        ({"tokens_rps": 9.0, "bytes_rps": 1.0}, {"bytes_rps": 1.0}, "bytes"),
        ({"bytes_rps": 1.0}, {}, None),
        ({"events_rps": 1.0, "share": 0.45}, {"events_rps": 1.0, "share": 0.55}, "requests"),
        ({"events_rps": 1.0, "share": 0.5}, {}, None),
    ],
)
def test_what_rates_are_compared_by(
    first: dict[str, float], second: dict[str, float], by: str | None
) -> None:
    turns = [
        TurnRow(number, 0.0, 1.0, 0, "ab"[number], "served", rate_rps=1.0, stream=stream)
        for number, stream in enumerate([first, second])
    ]
    assert counted(turns) == by
