"""Translators of named adapters and exported models: loaded when first asked for, the least recently used dropped."""

from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock

from inference import Translator
from inference.backends.exported import MANIFEST


class LoadedModels:
    """Translators by name, for any number of threads.

    A translator that was dropped lives on with those who still use it: memory holds `limit` models, and one more for
    as long as such a translation takes.

    Args:
        paths: what `find_models` found.
        limit: models in memory, at least 1.
        precision: see `Translator.load`.
        device: likewise.
        base: likewise; for adapters alone where there are exported models, too.

    Attributes:
        paths: as given.
        limit: models in memory.
        ready: whether one was loaded; the only one's place may be free for a moment, or where another cannot be loaded.

    Raises:
        ValueError: the limit is below 1.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        limit: int = 2,
        precision: str = "auto",
        device: str = "auto",
        base: str | None = None,
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1 model in memory, got {limit}.")
        self.limit = limit
        self.paths = dict(paths)
        self.ready = False
        self._precision, self._device, self._base = precision, device, base
        self._loaded: OrderedDict[str, Translator] = OrderedDict()  # the least recently used first
        self._loading, self._changing = Lock(), Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the order given."""
        return tuple(self.paths)

    @property
    def loaded(self) -> dict[str, Translator]:
        """The models in memory by name, the most recently used first."""
        with self._changing:
            return dict(reversed(self._loaded.items()))

    def get(self, name: str) -> Translator:
        """The translator of this name, loaded if it is not.

        One is loaded at a time; others that are loaded can be had meanwhile.  Room is made before loading, so a model
        that fails to load has cost another its place.

        Raises:
            KeyError: there is no such name.
            OSError: see `Translator.load`.
            ValueError: likewise.
        """
        path = self.paths[name]
        if found := self.in_memory(name):
            return found
        with self._loading:
            if found := self.in_memory(name):  # another thread has loaded it
                return found
            with self._changing:
                while len(self._loaded) >= self.limit:
                    self._loaded.popitem(last=False)
            # OpenMP keeps threads for every thread that has computed, and where they are more than the cores it lets
            # them sleep between operations, which slows the network down: those of loading end with a thread.
            with ThreadPoolExecutor(1) as once:
                load = partial(Translator.load, path, self._precision, self._device, self._base_of(path))
                translator = once.submit(load).result()
            with self._changing:
                self._loaded[name] = translator
            self.ready = True
            return translator

    def in_memory(self, name: str) -> Translator | None:
        """The translator of this name if it is loaded, which counts as a use; never waits for one being loaded."""
        with self._changing:
            if name in self._loaded:
                self._loaded.move_to_end(name)
            return self._loaded.get(name)

    def _base_of(self, path: Path) -> str | None:
        """The base given; None for an exported model, which holds its own, among adapters."""
        exported = [(one / MANIFEST).is_file() for one in (path, *self.paths.values())]
        return None if exported[0] and not all(exported) else self._base
