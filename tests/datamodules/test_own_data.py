"""Data modules written outside of this project: what a subclass has to say, and what it gets."""

from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser

from datamodules import PairedImages, TranslationData, UnpairedImages
from datamodules.batches import DOMAINS
from datamodules.files.layouts import STAGES, Domain, Pairs
from datamodules.inspection import inspect_folders
from datamodules.samples import EvaluationImages, UnpairedTraining
from images.listing import list_images
from tests.datamodules.miniature import domains

SMALL = {"resize": 16, "crop": 12, "eval_size": 16, "num_workers": 0}


class Seasons(UnpairedImages):
    """Another layout of folders."""

    domain_names = ("summer", "winter")
    default_prompts = ("a summer day", "a winter day")

    @classmethod
    def list_files(cls, root: Path, seed: int) -> tuple[Domain, Domain]:
        def season(name: str) -> Domain:
            folders = {stage: root / name / stage for stage in STAGES}
            return Domain(folders, {stage: list_images(folder) for stage, folder in folders.items()})

        return season("summer"), season("winter")


class Shades:
    """Images that are no files: squares of one brightness."""

    folder = None

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def name(self, index):
        return f"shade{self.values[index]}"

    def size(self, index):
        return 20, 20

    def read(self, index):
        return torch.full((3, 20, 20), self.values[index])

    def stamp(self):
        return str(self.values)


class DarkBright(TranslationData):
    """Dark squares to bright ones, and back."""

    domain_names = ("dark", "bright")

    def __init__(self, *, darkest: float = -1.0, **settings) -> None:
        super().__init__(**settings)
        self.prompts = {"a2b": "a bright square", "b2a": "a dark square"}
        self.shades = {"a": Shades([darkest, -0.5, -0.25]), "b": Shades([0.25, 0.5, 0.75])}

    def training_set(self):
        return UnpairedTraining(self.shades["a"], self.shades["b"], self.transform, self.seed)

    def evaluation_set(self, direction, stage):
        return EvaluationImages(self.shades[DOMAINS[direction][0]], self.eval_size)

    def reference_set(self, direction, stage):
        return EvaluationImages(self.shades[DOMAINS[direction][1]], self.eval_size)


def test_another_layout_is_one_class_method(tmp_path):
    for season in ("summer", "winter"):
        domains(tmp_path / season, train=5, validate=2, test=3)
    data = Seasons(root=str(tmp_path), **SMALL)
    assert data.description == f"{tmp_path}: summer and winter, train 5 + 5, validate 2 + 2, test 3 + 3"
    assert data.prompts == {"a2b": "a winter day", "b2a": "a summer day"}
    (batch,) = list(data.reference_dataloader("a2b", "test"))
    assert batch.names == ["000.png", "001.png", "002.png"]
    assert inspect_folders(Seasons, [tmp_path], {16}).problems == []


class Untitled(PairedImages):
    """Each image is its own target, without captions."""

    @classmethod
    def list_files(cls, root, seed):
        domain = Domain(dict.fromkeys(STAGES, root), {stage: list_images(root) for stage in STAGES})
        return Pairs(domain, domain)


def test_pairs_need_no_captions(tmp_path):
    domains(tmp_path, images=4)
    data = Untitled(root=str(tmp_path), caption="a noisy square", **SMALL)
    assert data.captions == {stage: 4 * ["a noisy square"] for stage in STAGES}


def test_images_that_are_no_files_need_three_methods():
    data = DarkBright(**SMALL, batch_size=3, darkest=-0.75)
    (batch,) = list(data.train_dataloader())
    assert sorted(batch.real_a.mean(dim=(1, 2, 3)).tolist()) == pytest.approx([-0.75, -0.5, -0.25], abs=1e-6)
    (evaluated,), (backwards,) = map(list, data.val_dataloader())
    assert evaluated.real.max() < 0 < backwards.real.min()
    assert evaluated.truth is None and evaluated.captions is None
    assert data.protocol("a2b", "test")["translated"].startswith("3 images")
    assert data.protocol("a2b", "test") != data.protocol("b2a", "test")
    assert data.reference_stamp("a2b", "test") == "[0.25, 0.5, 0.75]"
    with pytest.raises(ValueError, match="DarkBright does not list files"):
        inspect_folders(DarkBright, [Path()], set())


def test_a_subclass_takes_every_setting_of_its_base_from_the_command_line():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(TranslationData, "data")
    words = ["--data=tests.datamodules.test_own_data.DarkBright", "--data.darkest=-0.5", "--data.batch_size=2"]
    data = parser.instantiate(parser.parse_args(words)).data
    assert (data.batch_size, data.shades["a"].values[0]) == (2, -0.5)


def test_what_a_subclass_forgot_is_named():
    class Half(TranslationData):
        def training_set(self):
            raise AssertionError

    with pytest.raises(TypeError, match="evaluation_set"):
        Half()
