"""Progress of a training: images seen, time left, losses and the last validation, as a bar or as plain lines."""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import TextIO

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, Timer
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.batches import Translation
from lightning_modules.base import TranslationModule
from lightning_modules.callbacks.access import module_of
from lightning_modules.callbacks.displays import FAST, Bar, Clock, Display, Lines, Pace, duration
from metrics.scores import SCORES, formatted, log_key


class Progress(ProgressBar):
    """Shows how far training, validation and test are, on rank 0.

    A bar on a terminal; a plain line now and then where the output is a file, a pipe or a SLURM log.  Both count images
    rather than steps, and both print a line after every validation.  Losses are those of rank 0's last batch, averaged
    over the directions.  The time left follows from the rate so far, validations included.

    As a `ProgressBar` it replaces Lightning's own.  It must come after `MissingValidation`, and before callbacks that
    print at the end of a validation.

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
        self._pace = Pace(clock)
        self._last_validation: list[str] = []
        self._seconds: dict[str, float] = {}  # that a phase took when it last ran
        # The validation or test that runs:
        self._phase, self._phase_since, self._phase_pace = "", 0.0, Pace(clock)
        self._evaluated = 0  # images
        self._phase_images: int | None = None

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
    def display(self) -> Display | None:
        """Display that shows progress; None on other ranks and while disabled."""
        return self._display if self._enabled else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start measuring the rate; images of an interrupted run do not count."""
        self._trained_since, self._trained_from = self._clock(), module_of(pl_module).images_seen
        self._pace = Pace(self._clock)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Count the batch.  Losses are copied from the device only when they are shown."""
        module = module_of(pl_module)
        seen = module.images_seen
        self._pace.count(seen)
        if self.display is None or not self.display.due():
            return
        goal = _images_at_the_end(trainer, module)
        losses = _losses(outputs, module.generator.directions) if isinstance(outputs, dict) else []
        facts = [*self._pace.facts(seen, goal, _seconds_allowed(trainer)), *self._last_validation, *losses]
        self.display.show("training", seen, goal, facts)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print how long training took."""
        if self.display is not None:
            self.display.close()
            images, seconds = module_of(pl_module).images_seen - self._trained_from, self._clock() - self._trained_since
            self.display.say(f"trained on {images:,} images in {duration(seconds)}, validations included")

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
        """Print the scores; the first of them is also shown with the progress of training."""
        if trainer.sanity_checking:
            return
        self._end()
        module = module_of(pl_module)
        scores = _scores(trainer.callback_metrics, module.generator.directions)
        first = [f"{direction} {found[0]}" for direction, found in scores.items() if found]
        self._last_validation = [f"last validation {', '.join(first)}"] if first else []
        if self.display is not None:
            said = "; ".join(f"{direction} {', '.join(found)}" for direction, found in scores.items())
            self.display.say(f"validation at {module.images_seen:,} images: {said}")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting the images to translate."""
        self._start("testing", trainer.test_dataloaders, trainer.num_test_batches)

    on_test_batch_end = on_validation_batch_end

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop counting; the command prints the results."""
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Clear the bar before the error is printed."""
        if self.display is not None:
            self.display.close()

    def _start(self, phase: str, loaders: object, batches: Sequence[int | float]) -> None:
        """Begin a phase of evaluation; what comes before its first batch, such as real statistics, may take long."""
        self._phase, self._phase_since, self._evaluated = phase, self._clock(), 0
        known = map(_evaluated_images, loaders if isinstance(loaders, list) else [loaders], batches)
        self._phase_images = sum(known) or None
        self._phase_pace = Pace(self._clock)
        if self.display is not None:
            self.display.close()
            if self._seconds.get(phase, FAST) >= FAST or self.display.due():
                self.display.show(phase, 0, self._phase_images, [])

    def _count(self, trainer: Trainer, outputs: object) -> None:
        self._evaluated += len(outputs.index) * trainer.world_size if isinstance(outputs, Translation) else 0
        self._phase_pace.count(self._evaluated)
        if self.display is not None and self.display.due():
            facts = self._phase_pace.facts(self._evaluated, self._phase_images)
            done = min(self._evaluated, self._phase_images or self._evaluated)
            self.display.show(self._phase, done, self._phase_images, facts)

    def _end(self) -> None:
        self._seconds[self._phase] = self._clock() - self._phase_since
        if self.display is not None:
            self.display.close()


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
    """Images of all ranks in the first batches of a loader; 0 where its length is not known."""
    if not isinstance(loader, DataLoader) or not isinstance(loader.dataset, Sized):
        return 0
    images = len(loader.dataset)
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
