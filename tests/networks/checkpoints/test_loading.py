"""Adapters with the embeddings of their prompts beside them (prompts.safetensors)."""

import logging
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from networks import OneStepGenerator, load_generator
from networks.checkpoints.adapter import CARD, WEIGHTS, read_adapter, save_adapter, write_card
from networks.one_step.bases import load_base
from networks.one_step.prompts import PromptEncoder
from prompt_embeddings import PROMPTS, PromptEmbeddings

TEXTS = {"a2b": "a foggy day", "b2a": "a clear day"}
ENCODERS = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")


def trained(base):
    """A generator as training leaves it: its prompts embedded, its text encoder released."""
    generator = OneStepGenerator(str(base), rank_unet=2, rank_vae=1)
    generator.prompts = dict(TEXTS)
    generator.encode_prompts([*TEXTS.values()])
    generator.encode_prompts.release()
    return generator


def bare(base, folder):
    """A base on a server that never trains: UNet, VAE and schedule alone."""
    return shutil.copytree(base, folder, ignore=shutil.ignore_patterns(*ENCODERS))


@pytest.fixture(scope="module")
def generator(two_level_base):
    return trained(two_level_base)


@pytest.fixture(scope="module")
def computed(two_level_base):
    """A text encoder that knows no file."""
    return PromptEncoder(load_base(str(two_level_base)))


@pytest.fixture(scope="module")
def saved(generator, tmp_path_factory):
    return save_adapter(generator, tmp_path_factory.mktemp("saved") / "adapter")


@pytest.fixture
def adapter(saved, tmp_path):
    """To change."""
    return shutil.copytree(saved, tmp_path / "adapter")


def contexts(generator):
    return generator.encode_prompts([*TEXTS.values()])


@pytest.mark.parametrize("kind", ["two_level_base", "sdxl_base"])
def test_trained_prompts_need_neither_tokenizer_nor_text_encoder(kind, request, tmp_path, caplog):
    generator = trained(base := request.getfixturevalue(kind))
    loaded = load_generator(save_adapter(generator, tmp_path / "adapter"), str(bare(base, tmp_path / "bare")))
    assert torch.equal(contexts(loaded), contexts(generator))
    image = torch.rand(1, 3, 16, 24) * 2 - 1
    for direction in TEXTS:
        expected = generator.translate(image, direction=direction)
        torch.testing.assert_close(loaded.translate(image, direction=direction), expected)
    with pytest.raises(
        FileNotFoundError, match=r"no stored embedding of the prompt 'rain'. .*tokenizer is missing"
    ) as error:
        loaded.translate(image, "rain")
    assert "\n" not in str(error.value)
    (line,) = [record.getMessage() for record in caplog.records]
    assert str(tmp_path / "adapter" / PROMPTS) in line and "is not on this machine" in line and "\n" not in line


def test_with_the_base_whole_the_embeddings_are_those_of_the_file_and_other_prompts_work(adapter, computed, caplog):
    loaded = load_generator(adapter)
    assert not caplog.records
    stored = PromptEmbeddings.read(adapter / PROMPTS)
    assert torch.equal(contexts(loaded), torch.stack([torch.from_numpy(stored.values[d]) for d in TEXTS]))
    torch.testing.assert_close(loaded.encode_prompts(["rain", *TEXTS.values()]), computed(["rain", *TEXTS.values()]))


def test_another_text_encoder_embeds_the_prompts_itself_and_says_so(adapter, two_level_base, tmp_path, caplog):
    folder = shutil.copytree(two_level_base, tmp_path / "base")
    weights = folder / "text_encoder" / "model.safetensors"
    save_file({name: t * 1.5 for name, t in load_file(weights).items()}, weights, {"format": "pt"})
    with caplog.at_level(logging.WARNING):
        loaded = load_generator(adapter, str(folder))
    (line,) = [record.getMessage() for record in caplog.records]
    assert str(adapter / PROMPTS) in line and str(folder) in line and "\n" not in line
    assert torch.equal(contexts(loaded), PromptEncoder(load_base(str(folder)))([*TEXTS.values()]))


def test_adapters_of_earlier_versions_compute_them(adapter, computed, caplog):
    (adapter / PROMPTS).unlink()
    loaded = load_generator(adapter)
    assert not caplog.records
    torch.testing.assert_close(contexts(loaded), computed([*TEXTS.values()]))


def test_a_prompt_that_was_changed_in_the_card_is_not_taken_from_the_file(adapter, computed):
    write_card(adapter, replace(read_adapter(adapter).card, prompts={"a2b": "a clear day", "b2a": "rain"}))
    loaded = load_generator(adapter)
    prompts = [*loaded.prompts.values()]
    torch.testing.assert_close(loaded.encode_prompts(prompts), computed(prompts))


def test_a_file_that_does_not_fit_is_one_line(adapter, two_level_base, tmp_path):
    stored = PromptEmbeddings.read(adapter / PROMPTS)
    narrow = {direction: value[:, :-1] for direction, value in stored.values.items()}
    (adapter / PROMPTS).write_bytes(replace(stored, values=narrow).to_bytes())
    with pytest.raises(ValueError, match=r"does not fit .*\(\d+, 15\), the UNet takes \(L, 16\)"):
        load_generator(adapter, str(bare(two_level_base, tmp_path / "bare")))
    (adapter / PROMPTS).write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"prompts.safetensors is damaged.* Remove it: the base's text encoder then"):
        read_adapter(adapter)


def test_a_full_disk_leaves_the_old_state_of_all_three_files(generator, adapter, full_at):
    before = {path.name: path.read_bytes() for path in adapter.iterdir()}
    assert before.keys() == {CARD, WEIGHTS, PROMPTS}
    for limit in [0, len(before[CARD]), len(before[PROMPTS]) - 1, len(before[WEIGHTS]) - 1]:
        with full_at(limit), pytest.raises(OSError, match="could not be written: File too large"):
            save_adapter(generator, adapter)
        assert {path.name: path.read_bytes() for path in adapter.iterdir()} == before
