"""Adding a score is one entry and one function: it then stands in everything that shows scores."""

import json

import torch
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ablation.grids import parse_grid
from ablation.tables import markdown
from ablation.trials import Trial
from evaluation import compare
from evaluation.gallery import Gallery
from evaluation.model_card import readme
from evaluation.report import write_report
from evaluation.summary import summary
from lightning_modules.callbacks import Evaluation
from metrics.scores import FUNCTIONS, SCORES, Score
from networks.checkpoints.card import AdapterCard
from storage import write_json

from .test_callbacks import Data


class Recorder(Evaluation):
    """Also keeps the images, as `make evaluate` does."""

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        self.galleries.setdefault(outputs.direction, Gallery()).add(outputs)

    def on_validation_epoch_end(self, trainer, pl_module):
        super().on_validation_epoch_end(trainer, pl_module)
        self.records = {d: gallery.records(self.scorer.per_image(d)) for d, gallery in self.galleries.items()}


def test_a_score_that_is_added_is_shown_everywhere(unpaired, tmp_path, monkeypatch):
    monkeypatch.setitem(SCORES, "redness", Score("redness", "Redness", unit="%", better="lower", per_image=True))
    monkeypatch.setitem(FUNCTIONS, "redness", lambda images: images.fake.pixels[:, 0].float().mean(dim=(1, 2)))
    evaluation = Recorder("random", "random", "random")
    evaluation.galleries = {}
    trainer = Trainer(
        accelerator="cpu",
        logger=TensorBoardLogger(tmp_path, "", ""),
        enable_progress_bar=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        callbacks=[evaluation],
    )
    trainer.validate(unpaired(), Data(), verbose=False)
    trainer.logger.finalize("success")

    block = evaluation.results["a2b"]
    cell = f"{block['redness']:.4g}"
    events = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0}).Reload()
    assert torch.isclose(torch.tensor(events.Scalars("val/redness_a2b")[0].value), torch.tensor(block["redness"]))
    assert "val/per_image/redness_a2b" in events.Tags()["histograms"]

    metrics = {"images_seen": 9, "base": "pocket", "data": "made up", **evaluation.results}
    write_json(tmp_path / "runs" / "metrics.json", metrics)
    assert f"Redness {cell} %" in summary(metrics)
    table = compare.table({"one": metrics, "two": metrics}).splitlines()
    assert table[0].endswith("| redness |") and table[2].endswith(f"| {cell} |")

    write_report(tmp_path / "report.html", metrics, evaluation.records, None)
    page = (tmp_path / "report.html").read_text()
    assert f"<tr><td>redness</td><td>{cell}</td>" in page
    assert "worst redness" in page and "redness of each image" in page

    card = AdapterCard(settings={}, prompts={}, base_description="pocket", metrics=evaluation.results)
    assert f"{cell} % |" in readme(card, 1.0)

    grid = parse_grid("one", {"experiment": "clear2foggy", "axes": {"rank": {16: {}, 4: {}}}})
    trial = Trial("rank-16", {"rank": "16"}, 0, str(tmp_path / "runs"), [])
    assert "| Redness a2b | Redness b2a |" in markdown(grid, [trial]).splitlines()[0]
    assert json.loads((tmp_path / "runs" / "metrics.json").read_text())["b2a"]["redness"] is not None
