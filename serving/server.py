"""Answers to requests: decoding, queue, network and encoding, within limits of time and memory."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean
from typing import ParamSpec, TypeVar

from starlette.requests import ClientDisconnect, Request

from images.headers import reason
from images.opening import UNREADABLE
from images.ranges import Array
from images.writing import encode_image
from inference.backends.exported import PARITY
from inference.folder import IN_MEMORY
from inference.high_resolution import MEGAPIXEL
from inference.jobs import Settings
from inference.translator import Prepared, Translator
from serving.batching import Batcher, Item, PromptError
from serving.catalogue import Facts, without_folders
from serving.models import LoadedModels
from serving.monitoring import Monitoring
from serving.requests import Fields, Limits, RequestError, check_image, read_request
from storage import cores, did_you_mean, read_json, shortened, yield_to_computation

P = ParamSpec("P")
T = TypeVar("T")
TRAINED_PROMPTS = "This adapter takes no prompts but those it was trained with, here: leave the prompt out."
log = logging.getLogger(__name__)


class PixelBudget:
    """Pixels that all images in progress may have together; an image that does not fit waits, in order.

    Args:
        pixels: the most; an image of more goes alone.
    """

    def __init__(self, pixels: int) -> None:
        self._free = self._all = pixels
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, pixels: int) -> AsyncIterator[None]:
        """Hold some pixels as soon as they are free."""
        pixels = min(pixels, self._all)
        if self._waiting or pixels > self._free:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((pixels, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give_back(pixels)
                raise
        else:
            self._free -= pixels
        try:
            yield
        finally:
            self._give_back(pixels)

    def _give_back(self, pixels: int) -> None:
        self._free += pixels
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._free):
            needed, turn = self._waiting.popleft()
            if not turn.done():  # else its request has ended
                self._free -= needed
                turn.set_result(None)


@dataclass(frozen=True)
class Answer:
    """A translation and what it took.

    Attributes:
        content: of the image file.
        layout: how it was translated, as `Layout` prints.
        queue: seconds in the queue.
        compute: seconds of the network, for the whole batch.
    """

    content: bytes
    layout: str
    queue: float
    compute: float


class Server:
    """Answers requests.

    Args:
        models: adapters and exported models by name; the first is the default.
        limits: of requests.
        batch: images translated together, at most; None chooses by their size and the device.
    """

    def __init__(self, models: LoadedModels, limits: Limits, batch: int | None = None) -> None:
        self.models, self.limits = models, limits
        self.batcher = Batcher(batch)
        self.monitoring = Monitoring(lambda: len(self.batcher), lambda: self._at_once)
        self._at_once = 0
        self._seconds: deque[float] = deque(maxlen=limits.requests)  # from a request to its answer, recent ones
        self._budget = PixelBudget(IN_MEMORY)
        self._threads = ThreadPoolExecutor(cores(), "images", yield_to_computation)
        self._loading = ThreadPoolExecutor(1, "load")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the network's thread; at the end, stop."""
        self.batcher.start()
        try:
            yield
        finally:
            for pool in (self._threads, self._loading):
                pool.shutdown(cancel_futures=True)
            self.batcher.stop()

    @property
    def ready(self) -> bool:
        """Whether it translates: a model was loaded, and the network's thread is there."""
        return self.batcher.running and self.models.ready

    async def translate(self, request: Request, name: str, suffix: str) -> Answer:
        """Answer one request.

        Args:
            request: whose body was not read yet.
            name: of an adapter.
            suffix: of the file to answer with, one of `images.writing.WRITTEN`.

        Raises:
            RequestError: it is refused, or cannot be answered.
            ClientDisconnect: the client went away.
        """
        if name not in self.models.names:
            near = did_you_mean(name, self.models.names)
            known = ", ".join(self.models.names)
            raise RequestError(404, f"There is no adapter {shortened(name)} here.{near} Known: {known}.")
        if self._at_once >= self.limits.requests:
            wait = max(1, math.ceil(fmean(self._seconds or [0])))  # by then those in progress are answered
            raise RequestError(503, "The server is busy: try again a little later.", {"Retry-After": str(wait)})
        self._at_once += 1
        start = time.perf_counter()
        try:
            answer = await self._within_time(request, name, suffix)
            self._seconds.append(time.perf_counter() - start)
            return answer
        finally:
            self._at_once -= 1

    def info(self) -> dict[str, object]:
        """Adapters by name, and what the server takes."""
        return {
            "adapters": {name: self._describe(name) for name in self.models.names},
            "limits": asdict(self.limits),
            "models_in_memory": self.models.limit,
        }

    def _describe(self, name: str) -> dict[str, object]:
        """What clients need to know of an adapter, without paths of this machine."""
        path = self.models.paths[name]
        try:
            facts = Facts.read(path)
            parity = read_json(path / PARITY) if (path / PARITY).is_file() else None
        except (OSError, ValueError):
            log.exception("The card of %s cannot be read", name)
            return {}
        backend = loaded.backend if (loaded := self.models.loaded.get(name)) else None
        return {
            "title": facts.title,
            "kind": facts.kind,
            "base": without_folders(facts.base),
            "directions": facts.directions,
            "prompts": facts.prompts,
            "edits": facts.training.edits,
            "trained_only": facts.trained_only,
            "trained_on": without_folders(facts.training.data or ""),
            "trained_size": facts.training.size,
            "line_drawing": facts.training.line_drawing,
            "resolution": facts.training.resolution,
            "backend": facts.backend,
            "parity": parity,
            "loaded": backend
            and {"precision": backend.precision, "device": backend.device, "weight_bytes": backend.weight_bytes},
        }

    async def _within_time(self, request: Request, name: str, suffix: str) -> Answer:
        seconds = self.limits.seconds
        try:
            content, fields = await asyncio.wait_for(read_request(request, self.limits), seconds)
        except asyncio.TimeoutError as error:
            sentence = f"The request did not arrive within {seconds:g} seconds."
            raise RequestError(408, sentence, {"Connection": "close"}) from error
        work = asyncio.create_task(self._translated(name, content, fields, suffix))
        gone = asyncio.create_task(_until_gone(request))
        try:
            done, _ = await asyncio.wait({work, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if work in done:
                return work.result()
            if gone in done:
                raise ClientDisconnect
            raise RequestError(
                504, f"The translation took longer than {seconds:g} seconds: send a smaller image, or try again later."
            )
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.wait({work, gone})

    async def _translated(self, name: str, content: bytes, fields: Fields, suffix: str) -> Answer:
        height, width = await self._in_thread(check_image, content, self.limits)
        translator = await self._model(name)
        settings = _settings(translator, fields)
        try:
            layout = translator.layout(
                "The image", (height, width), settings.size, settings.preprocess, settings.resolution
            )
        except ValueError as error:
            raise RequestError(422, str(error)) from error
        pixels = math.prod(layout.shape)
        if pixels > self.limits.pixels:
            raise RequestError(
                413, f"The translation would have {pixels / 1e6:.0f} megapixels, at most {self.limits.pixels / 1e6:g}."
            )
        if math.prod(layout.network_shape) > MEGAPIXEL:
            tall, wide = layout.network_shape
            raise RequestError(
                413,
                f"The network would get {wide} x {tall} pixels, at most one megapixel: give a smaller size, or "
                "resolution=tiles.",
            )
        async with self._budget.hold(max(height * width, pixels)):
            prepared = await self._in_thread(_prepare, translator, content, settings)
            item = Item(translator, settings, prepared)
            self.batcher.submit(item)
            try:
                output = await asyncio.wrap_future(item.output)
            except PromptError as error:
                raise RequestError(422, TRAINED_PROMPTS) from error
            except MemoryError as error:
                raise RequestError(
                    413, "The image does not fit into the server's memory: give a smaller size."
                ) from error
            finally:
                self.batcher.discard(item)
            times = item.started - item.queued, time.perf_counter() - item.started
            file = await self._in_thread(_encode, prepared, output, suffix)
            return Answer(file, str(layout), *times)

    async def _model(self, name: str) -> Translator:
        """The model of a name, which is loaded where it is not.

        Raises:
            RequestError: 500; it cannot be loaded.
        """
        if found := self.models.in_memory(name):
            return found
        try:
            return await asyncio.get_running_loop().run_in_executor(self._loading, self.models.get, name)
        except (ValueError, OSError) as error:
            log.exception("%s cannot be loaded", name)
            raise RequestError(500, f"The adapter {name} cannot be loaded: the server's log says why.") from error

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *args, **kwargs))


def _settings(translator: Translator, fields: Fields) -> Settings:
    """The settings that a request's fields give.

    Raises:
        RequestError: 422; this model cannot do it.
    """
    backend = translator.backend
    try:
        (prompt,) = translator.prompts(fields.prompt, fields.direction)
    except ValueError as error:
        raise RequestError(422, str(error)) from error
    if backend.trained_only and fields.strength != 1:
        raise RequestError(422, "This is an exported model: it translates at strength 1 only.")
    if backend.trained_only and prompt not in backend.prompts.values():
        raise RequestError(422, TRAINED_PROMPTS)
    return Settings(**fields.model_dump() | {"prompt": prompt})


def _prepare(translator: Translator, content: bytes, how: Settings) -> Prepared:
    """Decode an image whose header was checked.

    Raises:
        RequestError: 400; it is damaged.
    """
    try:
        return translator.prepare(content, how.size, how.preprocess, how.resolution)
    except UNREADABLE as error:
        raise RequestError(400, f"The image cannot be read: {reason(error)}.") from error


def _encode(prepared: Prepared, output: Array, suffix: str) -> bytes:
    """The translation as a file.

    Raises:
        RequestError: 422; the format cannot hold it.
    """
    result = Translator.finish(prepared, output)
    try:
        return encode_image(result, suffix, prepared.alpha)
    except ValueError as error:
        raise RequestError(422, f"{error} Accept image/png.") from error


async def _until_gone(request: Request) -> None:
    """Return when the client of a request, whose body was read, goes away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
