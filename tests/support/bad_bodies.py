"""What is sent to the server by those who do not know how, or mean it ill, and what they get for it."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from tests.support import bad_images as images

JSON = "application/json"
CLOSED = 0
"""In place of a status: the connection ends without an answer."""

Make = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Case:
    """A request, made from a good JPEG file.

    Attributes:
        status: of the direct transport, or CLOSED.
        reason: what the refusal says.
        stock: status of LitServe's own transport, where another.
        like: an image file whose answer an accepted one must get.
        raw: ``body`` is all that is sent on the connection.
    """

    name: str
    body: Make
    status: int
    reason: str = ""
    content_type: str | None = JSON
    stock: int | None = None
    like: Make | None = None
    method: str = "POST"
    path: str = "/predict"
    encoding: str | None = None
    raw: bool = False


def wrapped(content: bytes) -> bytes:
    return json.dumps({"image": base64.b64encode(content).decode()}).encode()


def text(body: bytes | str) -> Make:
    content = body.encode() if isinstance(body, str) else body
    return lambda photo: content


def same(photo: bytes) -> bytes:
    return photo


def as_text(photo: bytes) -> str:
    return base64.b64encode(photo).decode()


def of_json(name: str, body: bytes | str, status: int, reason: str, stock: int | None = None) -> Case:
    return Case(name, text(body), status, reason, stock=stock)


def of_image(name: str, make: Make, status: int, reason: str = "", like: Make | None = None) -> Case:
    return Case(name, make, status, reason, "image/jpeg", like=like)


NOT_JSON, NOT_STRING, NOT_OBJECT = "not JSON", "valid string", "object"
NO_IMAGE, UNKNOWN = "not a readable image", "no JPEG, PNG, WebP or GIF"

JSON_CASES = [
    of_json("empty", b"", 422, "body: Field required"),
    of_json("half an object", b'{"image": "aGVs', 400, NOT_JSON),
    of_json("not UTF-8", b'{"image": "\xff\xfe"}', 400, ""),
    of_json("single quotes", "{'image': 'aGVsbG8='}", 400, NOT_JSON),
    of_json("null", "null", 422, "body"),
    of_json("a list", "[]", 422, NOT_OBJECT),
    of_json("no keys", "{}", 422, "image: Field required"),
    of_json("another key", '{"picture": "aGVsbG8="}', 422, "image: Field required"),
    of_json("image a number", '{"image": 3}', 422, NOT_STRING),
    of_json("image an object", '{"image": {"image": "aGVsbG8="}}', 422, NOT_STRING),
    of_json("number of 100,000 digits", '{"image": ' + "9" * 100_000 + "}", 400, ""),
    of_json("100,000 lists in each other", '{"image": ' + "[" * 100_000 + "]" * 100_000 + "}", 400, ""),
    of_json("100,000 objects, unclosed", '{"image":' * 100_000, 400, ""),
    of_json("lone surrogate", r'{"image": "\ud800"}', 400, ""),
    of_json("NUL", r'{"image": "\u0000"}', 400, "not base64"),
    of_json("empty image", '{"image": ""}', 400, "image: empty"),
    of_json("not base64", '{"image": "#not base64#"}', 400, "not base64"),
    of_json("base64 without padding", '{"image": "aGVsbG8"}', 400, "not base64"),
    of_json("URL-safe base64", '{"image": "_-_-"}', 400, "not base64"),
    of_json("base64 of text", wrapped(b"hello"), 400, UNKNOWN),
    Case("base64 in lines", lambda photo: base64.encodebytes(photo).join((b'{"image":"', b'"}')), 400, ""),
    Case(
        "data URL",
        lambda photo: json.dumps({"image": f"data:image/jpeg;base64,{as_text(photo)}"}).encode(),
        *(400, "send what follows 'base64,' alone"),
    ),
    of_json(
        "data URL of 14 MB",
        b'{"image": "data:image/jpeg;base64,' + b"A" * 14_000_000 + b'"}',
        400,
        "data URL",
    ),
    of_json("base64 of a HEIC", wrapped(images.isobmff(b"heic")), 400, "HEIC is not taken"),
    Case("base64 of JSON", lambda photo: wrapped(wrapped(photo)), 400, UNKNOWN),
    Case("an unknown key more", lambda photo: b'{"x": [1, {}], ' + wrapped(photo)[1:], 200, like=same),
    Case("the key twice, good last", lambda photo: b'{"image": 3, ' + wrapped(photo)[1:], 200, like=same),
    Case("the key twice, bad last", lambda photo: wrapped(photo)[:-1] + b', "image": 3}', 422, NOT_STRING),
    Case("28 MB", text(b'{"image": "' + b"A" * 28_000_000 + b'"}'), 413, "too large; 27,000,000"),
    Case(
        "base64 of a bomb", lambda photo: wrapped(images.png(2**31 - 1, 2**31 - 1, 8, 0, b"")), 413, "pixels"
    ),
]


def small(form: str, mode: str = "RGB", *, cut: int | None = None, **options: object) -> Make:
    """The photo, small and as another kind of file, its first ``cut`` bytes."""
    return lambda photo: images.saved(images.picture(photo, mode), form, **options)[:cut]


IMAGE_CASES = [
    of_image("empty file", text(b""), 400, "image: the body is empty"),
    of_image("text", text("hello"), 400, UNKNOWN),
    of_image("HTML", text("<!DOCTYPE html><script>alert(1)</script>"), 400, UNKNOWN),
    of_image("random bytes", text(images.flipped(bytes(5000), 0, 20_000)), 400, UNKNOWN),
    of_image("JSON as an image", wrapped, 400, UNKNOWN),
    of_image("head of a JPEG", lambda photo: photo[:300], 400, NO_IMAGE),
    of_image("half a JPEG", lambda photo: photo[: len(photo) // 2], 400, "truncated"),
    of_image("JPEG of zeros", lambda photo: photo[:300] + bytes(len(photo) - 300), 400, NO_IMAGE),
    of_image(
        "bits flipped in a JPEG's head", lambda photo: images.flipped(photo[:600], 2, 200), 400, NO_IMAGE
    ),
    of_image("bits flipped in a JPEG's pixels", lambda photo: images.flipped(photo, 2000, 20), 200),
    of_image("JPEG of no height", lambda photo: images.jpeg_of(photo, 300, 0), 400, NO_IMAGE),
    of_image("JPEG that claims 65500²", lambda photo: images.jpeg_of(photo, 65_500, 65_500), 413, "pixels"),
    of_image("JPEG of a thousand scans", lambda photo: images.many_scans(1000), 413, "scans"),
    of_image("JPEG strip", text(images.saved(Image.new("L", (65_000, 1)), "JPEG")), 413, "times"),
    of_image("PNG bomb", lambda photo: images.saved(Image.new("1", (11_000, 11_000)), "PNG"), 413, "pixels"),
    of_image("PNG strip", text(images.png(40_000_000, 1, 1, 0, bytes(5_000_001))), 413, "times"),
    of_image("PNG that claims 2³¹", text(images.png(2**31 - 1, 2**31 - 1, 8, 2, b"")), 413, "pixels"),
    of_image("PNG without pixels", text(images.png(50, 50, 8, 2, b"")), 400, "truncated"),
    of_image("PNG cut off", small("PNG", cut=5000), 400, NO_IMAGE),
    of_image(
        "PNG with a flipped bit", lambda photo: images.flipped(small("PNG")(photo), 60, 1), 400, NO_IMAGE
    ),
    of_image("GIF that claims 65535²", text(images.gif_of(65_535, 65_535)), 413, "pixels"),
    of_image("GIF of no size", text(images.gif_of(0, 0)), 400, NO_IMAGE),
    of_image("GIF cut off", small("GIF", cut=3000), 400, NO_IMAGE),
    of_image("GIF and script", text(b"GIF89a/*" + bytes(9) + b"*/=1;alert(1)//"), 400, NO_IMAGE),
    of_image("WebP that claims 16383²", text(images.webp_of(16_383, 16_383)), 413, "pixels"),
    of_image("WebP cut off", small("WEBP", cut=900), 400, NO_IMAGE),
    of_image("ZIP", text(images.with_zip(b"")), 400, UNKNOWN),
    of_image("PostScript", text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), 400, UNKNOWN),
    *(of_image(form, small(form), 400, UNKNOWN) for form in ("ICO", "PPM")),
    *(of_image(form, small(form), 400, f"{form} is not taken") for form in ("BMP", "TIFF", "PDF")),
    *(
        of_image(f"{form} ({brand})", text(images.isobmff(brand.encode())), 400, f"{form} is not taken")
        for form, brand in (("HEIC", "heic"), ("HEIF", "mif1"), ("AVIF", "avif"))
    ),
    of_image("BMP of 14 MB", text(b"BM" + bytes(14_000_000)), 400, "BMP is not taken"),
    # Unusual, and taken; of several images the first.
    of_image("one pixel", text(images.saved(Image.new("RGB", (1, 1)), "PNG")), 200),
    of_image("black and white", small("PNG", "1"), 200),
    of_image("PNG with a bomb for a comment, which nobody reads", text(images.text_bomb()), 200),
    of_image("palette", small("PNG", "P"), 200),
    of_image("transparent", small("PNG", "RGBA"), 200, like=small("PNG")),
    of_image("CMYK", small("JPEG", "CMYK"), 200),
    of_image("16-bit grey", lambda photo: images.with_16_bits(photo, "L"), 200, like=small("PNG", "L")),
    of_image("16-bit colour", lambda photo: images.with_16_bits(photo, "RGB"), 200, like=small("PNG")),
    of_image("animated GIF", lambda photo: images.animated(photo, "GIF"), 200, like=small("GIF")),
    of_image("animated PNG", lambda photo: images.animated(photo, "PNG"), 200, like=small("PNG")),
    of_image(
        "animated WebP",
        lambda photo: images.animated(photo, "WEBP", lossless=True),
        *(200, "", small("WEBP", lossless=True)),
    ),
    of_image("stereo JPEG", images.stereo, 200, like=small("JPEG")),
    of_image("PNG said to be a JPEG", small("PNG"), 200, like=small("PNG")),
    of_image(
        "GIF and HTML",
        lambda photo: small("GIF")(photo) + b"<script>alert(1)</script>",
        200,
        like=small("GIF"),
    ),
    of_image("JPEG and ZIP", images.with_zip, 200, like=same),
]


def of_size(count: int) -> Make:
    """A photo, and zeros behind its end, which nobody decodes."""
    return lambda photo: photo.ljust(count, b"\0")


LIMIT = 20_000_000
SAID = "too large; 20,000,000"
SIZE_CASES = [
    of_image("image of 20 MB", of_size(LIMIT), 200, like=same),
    of_image("image of a byte more", of_size(LIMIT + 1), 413, SAID),
    Case("image of 20 MB in JSON", lambda photo: wrapped(of_size(LIMIT)(photo)), 200, like=same),
    Case("image of a byte more in JSON", lambda photo: wrapped(of_size(LIMIT + 1)(photo)), 413, SAID),
]
"""The limit is the image's, by whatever transport and in whatever body it comes."""


def in_a_form(photo: bytes) -> bytes:
    """As `curl -F image=@photo.jpg` sends it."""
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="photo.jpg"\r\n'
    return head + b"Content-Type: image/jpeg\r\n\r\n" + photo + b"\r\n--x--\r\n"


NEITHER = "neither application/json nor image/*"
AS_IT_IS = "--data-binary @photo.jpg -H 'Content-Type: image/jpeg'"
TYPE_CASES = [
    *(
        Case(f"JSON as {kind}", wrapped, 415, NEITHER, kind)
        for kind in (
            None,
            "",
            "text/plain",
            "application/jsonx",
            "image",
        )
    ),
    Case("JPEG in a form", in_a_form, 415, AS_IT_IS, "multipart/form-data; boundary=x"),
    Case("JPEG of which curl says nothing", same, 415, AS_IT_IS, "application/x-www-form-urlencoded"),
    Case("a character set", wrapped, 200, content_type="Application/JSON; charset=utf-8", like=same),
    Case("another case", same, 200, content_type="IMAGE/JPEG", like=same),
    Case("packed JSON", lambda photo: gzip.compress(wrapped(photo)), 400, "", encoding="gzip"),
    Case("packed JPEG", gzip.compress, 400, UNKNOWN, "image/jpeg", encoding="gzip"),
]

ELSEWHERE_CASES = [
    *(
        Case(f"{method} /predict", wrapped, 405, "", method=method)
        for method in ("GET", "HEAD", "PUT", "OPTIONS")
    ),
    *(
        Case(f"POST {path}", wrapped, 404, "", path=path)
        for path in ("/PREDICT", "//predict", "/predict%00", "/predict/..%2f..%2fetc/passwd")
    ),
    *(Case(f"POST {path}", wrapped, 405, "", path=path) for path in ("/", "/health")),
]
