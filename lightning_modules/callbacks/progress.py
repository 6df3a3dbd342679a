"""Progress of a training: images seen, time left, losses and the last validation, as a bar or as plain lines."""

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TextIO

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, Timer
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from datamodules.batches import Translation
from lightning_modules.base import TranslationModule
from lightning_modules.callbacks.state import images_seen
from metrics.scores import SCORES, formatted, log_key

Clock = Callable[[], float]


class Progress(ProgressBar):
    """Shows how far training, validation and test are, on rank 0.

    On a terminal a bar; where the output is a file, a pipe or a SLURM log, one plain line now and then.  Both count
    images, not steps, and a line about every validation stays in either.  Losses are of rank 0's last batch, averaged
    over the directions.  The time left comes from the rate so far, validations included.

    Being a `ProgressBar`, it stands in for Lightning's own.  It must come before callbacks that print at the end of a
    validation, and after `FinalValidation`.

    Args:
        stream: where to show it; standard output by default.
        clock: seconds that never go backwards.
    """

    def __init__(self, stream: TextIO | None = None, clock: Clock = time.monotonic) -> None:
        super().__init__()
        self._stream, self._clock = stream, clock
        self._enabled = True
        self._display: Display | None = None
        self._trained_since, self._trained_from = 0.0, 0  # seconds, images
        self._pace = _Pace(clock)
        self._last_validation: list[str] = []
        self._seconds: dict[str, float] = {}  # that a phase took when it last ran
        # The validation or test that runs:
        self._phase, self._phase_since, self._phase_pace = "", 0.0, _Pace(clock)
        self._evaluated, self._phase_images = 0, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose between bar and lines."""
        super().setup(trainer, pl_module, stage)
        if self._display is None:
            stream = self._stream or sys.stdout
            self._display = Bar(stream, self._clock) if stream.isatty() else Lines(stream, self._clock)

    def disable(self) -> None:
        """Show nothing; Lightning calls it where a bar would be in the way."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    @property
    def display(self) -> "Display | None":
        """What to show on; None on the other ranks and while disabled."""
        return self._display if self._enabled else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the rate of this run alone; a resumed one starts at the images seen before."""
        self._trained_since, self._trained_from = self._clock(), images_seen(pl_module)
        self._pace = _Pace(self._clock)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Count the batch, and show it if it is time to; only then are losses copied from the device."""
        seen = images_seen(pl_module)
        self._pace.count(seen)
        if self.display is None or not self.display.due():
            return
        assert isinstance(pl_module, TranslationModule)
        goal = _images_at_the_end(trainer, pl_module)
        losses = _losses(outputs, pl_module.generator.directions) if isinstance(outputs, dict) else []
        facts = [*self._pace.facts(seen, goal, _seconds_allowed(trainer)), *self._last_validation, *losses]
        self.display.show("training", seen, goal, facts)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how long training took."""
        if self.display is not None:
            self.display.close()
            images, seconds = images_seen(pl_module) - self._trained_from, self._clock() - self._trained_since
            self.display.say(f"trained on {images:,} images in {_duration(seconds)}, validations included")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting the images to translate."""
        if not trainer.sanity_checking:
            self._start("validating", trainer.val_dataloaders, trainer.num_val_batches)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the translated images."""
        if not trainer.sanity_checking:
            self._count(trainer, outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say the scores, and keep the first of them beside the training's progress."""
        if trainer.sanity_checking:
            return
        self._end()
        assert isinstance(pl_module, TranslationModule)
        scores = _scores(trainer.callback_metrics, pl_module.generator.directions)
        first = [f"{direction} {found[0]}" for direction, found in scores.items() if found]
        self._last_validation = [f"last validation {', '.join(first)}"] if first else []
        if self.display is not None:
            said = "; ".join(f"{direction} {', '.join(found)}" for direction, found in scores.items())
            self.display.say(f"validation at {images_seen(pl_module):,} images: {said}")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting the images to translate."""
        self._start("testing", trainer.test_dataloaders, trainer.num_test_batches)

    on_test_batch_end = on_validation_batch_end

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the results to the command."""
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the line to the message."""
        if self.display is not None:
            self.display.close()

    def _start(self, phase: str, loaders: object, batches: Sequence[int | float]) -> None:
        """Begin a phase of evaluation; what comes before its first batch, such as real statistics, may take long."""
        self._phase, self._phase_since, self._evaluated = phase, self._clock(), 0
        self._phase_images = sum(map(_evaluated_images, loaders if isinstance(loaders, list) else [loaders], batches))
        self._phase_pace = _Pace(self._clock)
        if self.display is not None:
            self.display.close()
            if self._seconds.get(phase, FAST) >= FAST or self.display.due():
                self.display.show(phase, 0, self._phase_images, [])

    def _count(self, trainer: Trainer, outputs: object) -> None:
        assert isinstance(outputs, Translation)
        self._evaluated += len(outputs.index) * trainer.world_size
        self._phase_pace.count(self._evaluated)
        if self.display is not None and self.display.due():
            facts = self._phase_pace.facts(self._evaluated, self._phase_images)
            self.display.show(self._phase, min(self._evaluated, self._phase_images), self._phase_images, facts)

    def _end(self) -> None:
        self._seconds[self._phase] = self._clock() - self._phase_since
        if self.display is not None:
            self.display.close()


FAST = 15.0  # seconds that may pass without a line


class Display(Protocol):
    """Where progress is shown."""

    def due(self) -> bool:
        """Whether it is time to show the progress again."""

    def show(self, phase: str, images: int, total: int | None, facts: Sequence[str]) -> None:
        """Show the progress of a phase: images done, of how many (None: not known), and what else is to be known."""

    def say(self, line: str) -> None:
        """Print a line that stays."""

    def close(self) -> None:
        """End the phase, and leave the screen to others."""


class Bar:
    """A bar on a terminal; one at a time, gone when its phase ends.

    Args:
        stream: the terminal.
        clock: seconds.
        every: seconds between two looks.
    """

    def __init__(self, stream: TextIO, clock: Clock, every: float = 0.2) -> None:
        self._stream, self._clock, self._every = stream, clock, every
        self._bar: tqdm[None] | None = None
        self._drawn = 0.0

    def due(self) -> bool:
        """Several times a second."""
        return self._bar is None or self._clock() - self._drawn >= self._every

    def show(self, phase: str, images: int, total: int | None, facts: Sequence[str]) -> None:
        """Draw the bar anew."""
        if self._bar is None:
            counted = "{n:,} images" if total is None else "{percentage:3.0f}%|{bar:20}| {n:,} of {total:,} images"
            self._bar = tqdm(
                total=total,
                initial=images,
                desc=phase,
                bar_format=f"{{desc}} {counted}{{postfix}}",
                file=self._stream,
                dynamic_ncols=True,
                leave=False,
                delay=1e-9,  # no drawing before the line below
            )
        self._bar.n, self._bar.total = images, total
        self._bar.set_postfix_str(", ".join(facts), refresh=False)
        self._bar.refresh()
        self._drawn = self._clock()

    def say(self, line: str) -> None:
        """Print above the bar."""
        tqdm.write(line, file=self._stream)
        self._stream.flush()

    def close(self) -> None:
        """Clear the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Lines:
    """Plain lines in a file: one after the first batch, then every 15 seconds, after three minutes one per minute.

    Args:
        stream: the file.
        clock: seconds.
    """

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        self._stream, self._clock = stream, clock
        self._first: float | None = None
        self._last = 0.0

    def due(self) -> bool:
        """Often at first, rarely later."""
        if self._first is None:
            return True
        now = self._clock()
        return now - self._last >= (FAST if now - self._first < 180 else 60.0)

    def show(self, phase: str, images: int, total: int | None, facts: Sequence[str]) -> None:
        """Print one line."""
        counted = f"{images:,} images" if total is None else f"{images:,} of {total:,} images"
        share = [f"{images / total:.0%}"] if total else []
        self.say(f"{phase}: {', '.join([counted, *share, *facts])}")
        self._last = self._clock()
        self._first = self._last if self._first is None else self._first

    def say(self, line: str) -> None:
        """Print the line."""
        print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing stays open."""


class _Pace:
    """Rate since the first batch, whose start-up would spoil it, and the time left."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: tuple[float, int] | None = None  # seconds and images after the first batch

    def count(self, images: int) -> None:
        """So many images are done now."""
        if self._since is None:
            self._since = (self._clock(), images)

    def facts(self, images: int, goal: int | None, allowed: float | None = None) -> list[str]:
        """Time left and rate, as far as known; ``allowed`` is the time after which the trainer stops, in seconds."""
        if self._since is None or images <= self._since[1]:
            return []
        rate = (images - self._since[1]) / max(self._clock() - self._since[0], 1e-9)
        left = [
            seconds for seconds in (allowed, None if goal is None else (goal - images) / rate) if seconds is not None
        ]
        return [*([f"{_duration(max(0.0, min(left)))} left"] if left else []), f"{rate:.3g} images/s"]


def _duration(seconds: float) -> str:
    return tqdm.format_interval(round(seconds))


def _images_at_the_end(trainer: Trainer, module: TranslationModule) -> int | None:
    """Images that will have been seen when the first limit of the training is reached; None where none is known."""
    per_batch = module.images_seen / module.batches_seen
    limits = [] if module.max_images is None else [module.max_images]
    if trainer.max_epochs is not None and trainer.max_epochs >= 0 and trainer.num_training_batches < float("inf"):
        limits.append(round(per_batch * trainer.num_training_batches * trainer.max_epochs))
    if trainer.max_steps >= 0 and trainer.global_step:
        limits.append(round(module.images_seen * trainer.max_steps / trainer.global_step))
    return max(module.images_seen, min(limits)) if limits else None


def _seconds_allowed(trainer: Trainer) -> float | None:
    """Seconds until ``max_time`` ends the training."""
    timers = [c for c in trainer.callbacks if isinstance(c, Timer)]  # type: ignore[attr-defined]
    left = [seconds for timer in timers if (seconds := timer.time_remaining()) is not None]
    return min(left, default=None)


def _evaluated_images(loader: object, batches: int | float) -> int:
    """Images of all ranks in the first batches of a loader."""
    assert isinstance(loader, DataLoader)
    images = len(loader.dataset)  # type: ignore[arg-type]
    return images if batches >= len(loader) else round(images * batches / len(loader))


def _losses(terms: Mapping[str, Tensor], directions: Iterable[str]) -> list[str]:
    """Each loss term, the mean over the directions."""
    values = torch.stack([term.detach().float() for term in terms.values()]).tolist() if terms else []
    families: dict[str, list[float]] = {}
    for name, value in zip(terms, values, strict=True):
        family = next((name.removesuffix(f"_{d}") for d in directions if name.endswith(f"_{d}")), name)
        families.setdefault(family, []).append(value)
    return [f"{family} {sum(found) / len(found):.3g}" for family, found in families.items()]


def _scores(metrics: Mapping[str, Tensor], directions: Iterable[str]) -> dict[str, list[str]]:
    """The scores of a validation that have a better side, by direction."""
    return {
        direction: [
            " ".join(filter(None, (score.heading, formatted(float(metrics[key])), score.unit)))
            for score in SCORES.values()
            if score.better and (key := log_key("val", score.name, direction)) in metrics
        ]
        for direction in directions
    }
