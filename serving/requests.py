"""Read requests: bodies of bounded length, their fields and image; what is wrong becomes a status and a sentence."""

import re
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from images.headers import MOST_SCANS, has_too_many_scans, reason
from images.opening import UNREADABLE, TooLargeError, UnknownFormatError, open_image
from inference.high_resolution import RESOLUTIONS
from inference.processing import LINES
from limits import LIMITS
from storage import did_you_mean, shortened

MIB = 1 << 20
LONGEST_PROMPT = 2000  # characters; text encoders read some 77 tokens
MOST_FIELDS = 16
FIELD_BYTES = 4 * LONGEST_PROMPT
TYPES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
"""Media types of answers, and the endings of such files."""


class RequestError(Exception):
    """A request is refused.

    Args:
        status: code of HTTP.
        sentence: what is wrong and what to do, without anything about the server's files.
        headers: of the answer.
    """

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, dict(headers or {})


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Attributes:
        requests: that are received, wait or are answered at once; further ones are refused.
        seconds: from the end of a request's body to its answer, and for the body to arrive.
        body: bytes of a request's body.
        pixels: of an image, and of its translation.
        side: of an image, pixels.
    """

    requests: int = 32
    seconds: float = 60.0
    body: int = 32 * MIB
    pixels: int = 50_000_000
    side: int = 16_384


class Fields(BaseModel):
    """Fields of a request, in its query or its form."""

    model_config = ConfigDict(extra="forbid")

    direction: Literal["a2b", "b2a"] = Field("a2b", description="a2b or b2a; /info lists what the adapter has")
    prompt: str | None = Field(
        None, max_length=LONGEST_PROMPT, description="text that describes the result; default: the one trained with"
    )
    strength: float = Field(1.0, ge=0, le=1, description="1 follows the input, 0 draws an image from noise")
    seed: int = Field(0, ge=0, le=int(LIMITS["seed"].high), description="of the noise for a strength below 1")
    size: int | None = Field(
        None,
        ge=int(LIMITS["eval_size"].low),
        le=int(LIMITS["eval_size"].high),
        description="resize the short side to this many pixels first",
    )
    resolution: Literal[RESOLUTIONS] = Field(  # type: ignore[valid-type]
        "auto", description="how images above the trained size are translated; auto: what suits the adapter"
    )
    preprocess: Literal[LINES] = Field(  # type: ignore[valid-type]
        "none", description="lines drawn from the photograph first, for adapters that translate line drawings"
    )

    @classmethod
    def read(cls, values: Mapping[str, str]) -> "Fields":
        """Read fields from texts.

        Raises:
            RequestError: 422; a name or a value is not known.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            if first["type"] == "extra_forbidden":
                near = did_you_mean(name, cls.model_fields)
                known = ", ".join(cls.model_fields)
                raise RequestError(422, f"Unknown field {shortened(name)}.{near} Known: {known}.") from error
            said = f"{first['msg'][0].lower()}{first['msg'][1:]}"
            raise RequestError(422, f"Field {name}: {said}, got {shortened(first['input'])}.") from error


async def limited(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """The pieces of a request's body.

    Args:
        request: whose body was not read yet.
        limit: its length, bytes.

    Yields:
        The pieces as they come.

    Raises:
        RequestError: 413; it is longer.
        ClientDisconnect: the client went away.
    """
    sentence = f"The body may have at most {limit / MIB:g} MiB: send a smaller file."
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > limit:
        raise RequestError(413, sentence)
    received = 0
    async for piece in request.stream():
        received += len(piece)
        if received > limit:
            raise RequestError(413, sentence)
        yield piece


async def read_request(request: Request, limits: Limits) -> tuple[bytes, Fields]:
    """The image's file, and the fields.

    Args:
        request: whose body is the image, whatever its type says (curl's says URL-encoded), or a multipart form with a
            file ``image``.
        limits: of the server.

    Raises:
        RequestError: 400, 413, 415 or 422; it cannot be read.
        ClientDisconnect: the client went away.
    """
    texts = _once(request.query_params.multi_items())
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    stream = limited(request, limits.body)
    if kind == "multipart/form-data":
        content, form = await _read_form(request, stream, limits.body)
        texts = _once([*texts.items(), *form])
    else:
        content = b"".join([piece async for piece in stream])
    fields = Fields.read(texts)
    if not content:
        raise RequestError(400, "The request has no image: send its file as the body, or as the form's part 'image'.")
    return content, fields


async def _read_form(
    request: Request, stream: AsyncGenerator[bytes, None], limit: int
) -> tuple[bytes, list[tuple[str, str]]]:
    """The content of the part ``image``, and the texts of the others."""
    parser = MultiPartParser(request.headers, stream, max_files=1, max_fields=MOST_FIELDS, max_part_size=FIELD_BYTES)
    parser.spool_max_size = limit + 1  # in memory, never in a file
    try:
        form = await parser.parse()
    except (RequestError, ClientDisconnect):
        raise
    except Exception as error:  # of the parser, whatever the bytes are
        said = error.message.rstrip(".") if isinstance(error, MultiPartException) else "it is no multipart/form-data"
        raise RequestError(400, f"The form cannot be read: {said}.") from error
    try:
        content, texts = b"", []
        for name, value in form.multi_items():
            if isinstance(value, str) and name != "image":
                texts.append((name, value))
            elif isinstance(value, UploadFile) and name == "image":
                content = await value.read()
            else:
                raise RequestError(
                    422, f"The form has one file, named 'image', and texts; {shortened(name)} is neither."
                )
        return content, texts
    finally:
        await form.close()


def _once(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Fields by name.

    Raises:
        RequestError: 422; one is given twice.
    """
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            raise RequestError(422, f"Field {shortened(name)} is given twice.")
        found[name] = value
    return found


def check_image(content: bytes, limits: Limits) -> tuple[int, int]:
    """Height and width of an image, pixels, as its header says; nothing is decoded.

    Args:
        content: of an image file.
        limits: of the server.

    Raises:
        RequestError: 400, 413 or 415; it is damaged, too large, or of a format that is not read.
    """
    try:
        with open_image(content) as header:
            width, height = header.size
            scans = header.format in ("JPEG", "MPO") and has_too_many_scans(content)
    except UnknownFormatError as error:
        raise RequestError(415, f"The content is {error}.") from error
    except TooLargeError as error:
        raise RequestError(413, f"The image is too large: {error}.") from error
    except UNREADABLE as error:
        raise RequestError(400, f"The image cannot be read: {reason(error)}.") from error
    if max(height, width) > limits.side or height * width > limits.pixels:
        raise RequestError(
            413,
            f"The image has {width} x {height} pixels; at most {limits.pixels / 1e6:g} megapixels and {limits.side:,} "
            "pixels a side are translated. Make it smaller.",
        )
    if scans:
        raise RequestError(
            413, f"The image has more than {MOST_SCANS} scans, each a pass over all of its pixels: save it again."
        )
    return height, width


def media_type(accept: str) -> str:
    """The type of the answer by a header ``Accept`` (RFC 9110, Sec. 12.5.1): the most wanted of `TYPES`, else PNG.

    Raises:
        RequestError: 406; it wants none of them.
    """
    wanted: dict[str, float] = {}
    for part in accept.split(",") if accept.strip() else ["*/*"]:
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        quality = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        wanted[kind] = float(quality) if re.fullmatch(r"[01](\.\d{0,3})?", quality) else 0.0
    ranked = {kind: wanted.get(kind, wanted.get("image/*", wanted.get("*/*", 0.0))) for kind in TYPES}
    best = max(ranked, key=lambda kind: ranked[kind])  # the first of equals
    if not ranked[best]:
        raise RequestError(406, f"Translations are sent as {', '.join(TYPES)}: accept one of them.")
    return best
