"""Resumed training sees what uninterrupted training sees, wherever the checkpoint was written."""

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from datamodules import HorseZebra

BATCHES = 4  # of an epoch


class Recorder(LightningModule):
    """Keeps what it was shown; its one weight depends on every image and on the order."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch_idx, *batch.index.tolist(), *batch.seed.tolist()))
        return (self.weight * batch.real_a.mean() - batch.real_b.mean()) ** 2

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        torch.rand(1)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


class SaveOnce(Callback):
    """Writes a checkpoint from one hook, after so many batches."""

    def __init__(self, hook, batches, path):
        self.hook, self.batches, self.path = hook, batches, path

    def _save(self, trainer, module):
        if len(module.seen) == self.batches and not self.path.exists() and not trainer.sanity_checking:
            trainer.save_checkpoint(self.path)

    def on_train_batch_end(self, trainer, module, *args):
        if self.hook == "batch":
            self._save(trainer, module)

    def on_validation_end(self, trainer, module):
        if self.hook == "validation":
            self._save(trainer, module)

    def on_train_epoch_end(self, trainer, module):
        if self.hook == "epoch":
            self._save(trainer, module)


def fit(workers, callbacks=(), checkpoint=None, max_epochs=3, data=None, **settings):
    data = data or HorseZebra(
        resize=20, crop=16, eval_size=16, batch_size=2, num_workers=workers, train_scenes=9, val_scenes=2, test_scenes=2
    )
    module = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **settings,
    )
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    return module


HOOKS = [
    ("batch", 3),  # within the first epoch
    ("batch", BATCHES + 1),  # within the second
    ("batch", BATCHES),  # the last of an epoch, before validation
    ("validation", 2),
    ("validation", BATCHES + 2),
    ("validation", BATCHES),  # at an epoch's end
    ("epoch", BATCHES),
]


@pytest.mark.filterwarnings("error:You're resuming")
@pytest.mark.parametrize("hook, batches", HOOKS)
@pytest.mark.parametrize("settings", [{}, {"check_val_every_n_epoch": None}], ids=["per_epoch", "across_epochs"])
def test_resumed_run_goes_on_where_it_stopped(hook, batches, settings, tmp_path):
    settings = {"val_check_interval": 2, **settings}
    path = tmp_path / "x.ckpt"
    whole = fit(0, [SaveOnce(hook, batches, path)], **settings)
    assert len(whole.seen) == 3 * BATCHES
    rest = fit(0, checkpoint=path, **settings)
    assert rest.seen == whole.seen[batches:]
    assert torch.equal(rest.weight, whole.weight)


@pytest.mark.parametrize(
    "hook, batches", [("batch", 3), ("batch", BATCHES), ("validation", BATCHES), ("epoch", BATCHES)]
)
def test_worker_processes_start_at_the_right_image(hook, batches, tmp_path):
    path = tmp_path / "x.ckpt"
    whole = fit(1, [SaveOnce(hook, batches, path)], val_check_interval=2)
    rest = fit(1, checkpoint=path, val_check_interval=2)
    assert rest.seen == whole.seen[batches:] == fit(0, val_check_interval=2).seen[batches:]
    assert torch.equal(rest.weight, whole.weight)


def test_a_finished_run_can_be_extended(tmp_path):
    path = tmp_path / "x.ckpt"
    fit(0, [SaveOnce("epoch", 2 * BATCHES, path)], max_epochs=2)
    assert fit(0, checkpoint=path).seen == fit(0).seen[2 * BATCHES :]


def test_epochs_differ():
    seen = fit(0, max_epochs=2).seen
    first, second = ({index for row in part for index in row[2:4]} for part in (seen[:BATCHES], seen[BATCHES:]))
    assert len(first) == len(second) == 2 * BATCHES
    assert [row[2:] for row in seen[:BATCHES]] != [row[2:] for row in seen[BATCHES:]]


def test_batches_of_another_size_are_refused(tmp_path):
    """The rest of the epoch would skip images, or show some twice."""
    before, after = (
        HorseZebra(resize=32, crop=32, eval_size=32, num_workers=0, train_scenes=8, val_scenes=2, batch_size=size)
        for size in (1, 2)
    )
    with pytest.raises(ValueError, match="1 images per batch, over all devices; now they are 2"):
        after.load_state_dict(before.state_dict())
    before.load_state_dict(before.state_dict())
