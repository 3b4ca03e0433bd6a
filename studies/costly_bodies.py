"""What bodies cost that are made to cost much: alone on an idle server, and sixty of the worst at once."""

from __future__ import annotations

import io
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from statistics import median

import numpy as np
import requests
from PIL import Image

from litmeter.classifier.server.client import CONTENT_TYPES
from litmeter.measure.log import Log
from litmeter.measure.run import run
from litmeter.measure.subjects import Subject
from litmeter.measure.turn import Turn, measure
from litmeter.say.tables import markdown_table
from litmeter.stats.records import OK
from litmeter.system.machine import exclusive_machine
from studies.harness import SERVER, configuration, load_plan, photo_paths, watched_server, write_result

SIZE = 19_000_000
REPEATS = 3
AT_ONCE = 60
GOOD_RPS, GOOD_S, CONNECTIONS = 20.0, 20.0, 64
"""Good traffic meanwhile."""


def segment(marker: int, data: bytes) -> bytes:
    """A segment of a JPEG."""
    return bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2, "big") + data


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def fill(start: bytes, part: bytes, end: bytes = b"") -> bytes:
    """``start``, as many of ``part`` as fit, and ``end``."""
    return start + part * ((SIZE - len(start) - len(end)) // len(part)) + end


def png_with(part: bytes) -> bytes:
    """A PNG with ``part`` repeated before its pixels."""
    Image.new("RGB", (64, 64)).save(buffer := io.BytesIO(), "PNG")
    content = buffer.getvalue()
    return fill(content[:33], part, content[33:])


def gif_with(start: bytes, part: bytes, end: bytes = b"") -> bytes:
    """A GIF with an extension of many parts before its picture."""
    Image.new("P", (64, 64)).save(buffer := io.BytesIO(), "GIF")
    content = buffer.getvalue()
    begin = 13 + 3 * 2 ** ((content[10] & 7) + 1)  # behind the header and the colour table
    return fill(content[:begin] + start, part, end + content[begin:])


def noise(progressive: bool) -> bytes:
    """A JPEG of 49 megapixels that does not compress."""
    pixels = np.random.default_rng(0).integers(0, 256, (7000, 7000, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "JPEG", quality=5, progressive=progressive)
    return buffer.getvalue()


def hundred_scans() -> bytes:
    """A progressive JPEG of 49 megapixels of one colour, whose last scan is repeated."""
    Image.new("RGB", (7000, 7000)).save(buffer := io.BytesIO(), "JPEG", progressive=True)
    content = buffer.getvalue()
    return content[:-2] + content[content.rindex(b"\xff\xda") : -2] * 90 + content[-2:]


def half_a_photo(progressive: bool = False) -> bytes:
    """A JPEG that ends within its last scan."""
    with Image.open(photo_paths()[0]) as photo:
        photo.save(buffer := io.BytesIO(), "JPEG", progressive=progressive)
    content = buffer.getvalue()
    return content[: (content.rindex(b"\xff\xda") + len(content)) // 2]


def bodies() -> dict[str, Callable[[], bytes]]:
    """What makes each: an image file, or JSON where its name says so."""
    start = photo_paths()[0].read_bytes()[:20]
    riff = b"RIFF" + (SIZE - 8).to_bytes(4, "little") + b"WEBP"
    resources = segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\0" * 5000)
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000)))
    profile = chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(1_000_000)))
    return {
        "a good photo": photo_paths()[0].read_bytes,
        "a JPEG's start, then 0xFF": lambda: fill(start, b"\xff"),
        "a JPEG's start, then empty APP1 segments": lambda: fill(start, segment(0xE1, b"")),
        "a JPEG's start, then empty comments": lambda: fill(start, segment(0xFE, b"")),
        "a JPEG's start, then tables": lambda: fill(start, segment(0xDB, bytes(65))),
        "a JPEG's start, then long tables": lambda: fill(start, segment(0xDB, bytes(65_000))),
        "a JPEG's start, then Photoshop resources": lambda: fill(start, resources),
        "a JPEG's start, then escaped bytes": lambda: fill(start, b"\xff\0"),
        "a JPEG's start, then reserved markers": lambda: fill(start, b"\xff\xf2"),
        "half a JPEG, then APP1 segments": lambda: fill(half_a_photo(), segment(0xE1, b"x")),
        "half a JPEG, then tables": lambda: fill(half_a_photo(), segment(0xC4, b"")),
        "half a JPEG, then 0xFF": lambda: fill(half_a_photo(), b"\xff"),
        "half a progressive JPEG, then restart markers": lambda: fill(
            half_a_photo(progressive=True), b"\xff\xd0"
        ),
        "a JPEG's start, then x": lambda: fill(start, b"x"),
        "a PNG of empty tEXt chunks": lambda: png_with(chunk(b"tEXt", b"")),
        "a PNG of compressed text": lambda: png_with(text),
        "a PNG of compressed profiles": lambda: png_with(profile),
        "a PNG of empty IDAT chunks": lambda: png_with(chunk(b"IDAT", b"")),
        "a GIF of tiny comment blocks": lambda: gif_with(b"!\xfe", b"\x01c", b"\0"),
        "a GIF of empty extensions": lambda: gif_with(b"", b"!\xfe\0"),
        "a GIF of bytes that are no block": lambda: gif_with(b"", b"x"),
        "a WebP of empty chunks": lambda: fill(riff, b"JUNK\0\0\0\0"),
        "JSON with 1.5 million keys": lambda: b"{%s}" % b",".join(b'"%d":1' % n for n in range(1_500_000)),
        "JSON with nine million values": lambda: b'{"image":[' + b"1," * 9_000_000 + b"1]}",
        "JSON with base64 that is none": lambda: fill(b'{"image":"', b"*", b'"}'),
        "49 megapixels in a hundred scans": hundred_scans,
        "noise, 49 megapixels": lambda: noise(progressive=False),
        "noise, 49 megapixels, progressive": lambda: noise(progressive=True),
    }


def ask(url: str, name: str, body: bytes) -> tuple[int, float]:
    """Status and milliseconds of one request with the body of this name."""
    headers = {"Content-Type": CONTENT_TYPES["json" if name.startswith("JSON") else "image"]}
    started = time.perf_counter()
    answer = requests.post(url, data=body, headers=headers, timeout=60)
    return answer.status_code, 1000 * (time.perf_counter() - started)


def good_p99_ms(
    subjects: Mapping[str, Subject], attack: Callable[[], None] = lambda: None
) -> tuple[float, int]:
    """p99 of good photos at GOOD_RPS, and how many were refused; these count as if they took for ever.

    The attack begins when a third of the time is over.
    """
    plan = load_plan(CONNECTIONS, GOOD_S, seed=0, rate_rps=GOOD_RPS)
    attacks = [attack]

    def watch(text: str, seconds: float, end_s: float) -> None:
        if attacks and seconds > GOOD_S / 3:
            attacks.pop()()

    record = run(measure(Turn(SERVER, plan)), subjects, Log(), GOOD_S, watch).requests
    latency_ms = np.where(record.status == OK, 1000 * (record.end - record.start), np.inf)[record.in_window]
    return float(np.percentile(latency_ms, 99, method="higher")), int(np.isinf(latency_ms).sum())


def main() -> None:
    """Ask with each body, attack with the worst that is refused; keep and print the times."""
    found: dict[str, dict[str, float]] = {}
    with exclusive_machine(), watched_server(configuration("candidate")) as (server, subjects):
        url, kinds = f"{server.url}/predict", bodies()
        for name, make in kinds.items():
            body = make()
            asked = [ask(url, name, body) for _ in range(REPEATS)]
            ms = round(median(ms for _, ms in asked), 1)
            found[name] = {"bytes": len(body), "status": asked[0][0], "ms": ms}
        refused = {name: row for name, row in found.items() if row["status"] != 200}
        worst = max(refused, key=lambda name: refused[name]["ms"])
        threads = [threading.Thread(target=ask, args=(url, worst, kinds[worst]())) for _ in range(AT_ONCE)]

        def attack() -> None:
            for thread in threads:
                thread.start()

        calm, _ = good_p99_ms(subjects)
        attacked, lost = good_p99_ms(subjects, attack)
        for thread in threads:
            thread.join()
    attacked_by = {
        "worst": worst,
        "at_once": AT_ONCE,
        "good_rps": GOOD_RPS,
        "good_p99_ms": round(calm, 1),
        "attacked_p99_ms": round(attacked, 1) if np.isfinite(attacked) else None,
        "refused_good": lost,
    }
    write_result("costly_bodies", {"bodies": found, **attacked_by})
    rows = [
        [name, f"{row['bytes'] / 1e6:.1f} MB", f"{row['status']:.0f}", f"{row['ms']:.0f} ms"]
        for name, row in found.items()
    ]
    print(markdown_table(["body", "size", "answer", "time alone"], rows))
    print(attacked_by)


if __name__ == "__main__":
    main()
