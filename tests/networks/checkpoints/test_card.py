"""The adapter's card: typed, validated, and a round trip through JSON."""

import json
from dataclasses import FrozenInstanceError, dataclass, replace
from pathlib import Path

import pytest

from networks.checkpoints.adapter import CARD, read_adapter, save_adapter
from networks.checkpoints.card import AdapterCard, RunFacts
from networks.checkpoints.settings import OneStepSettings, ResnetSettings, Settings
from networks.resnet import ResnetGenerator

OLD = json.loads((Path(__file__).with_name("version_0_run") / "adapter" / "adapter.json").read_text())


def changed(**entries):
    return OLD | entries


def with_setting(**entries):
    return changed(settings=OLD["settings"] | entries)


def test_a_card_of_before_comes_out_as_it_went_in_order_of_keys_included():
    card = AdapterCard.from_json(OLD, "adapter.json")
    assert json.dumps(card.to_json()) == json.dumps(OLD)
    assert isinstance(card.settings, OneStepSettings) and card.settings.rank_unet == 1
    assert card.run.experiment == "edge2image" and card.run.training_features == ("random",)


def test_edits_are_texts_and_come_back():
    card = AdapterCard.from_json(changed(edits=["make it night", "add fog"]), "adapter.json")
    assert card.run.edits == ("make it night", "add fog") and card.to_json()["edits"] == ["make it night", "add fog"]


def test_unknown_top_level_keys_are_kept():
    card = AdapterCard.from_json(changed(licence="CC0", notes=["a", 1]), "adapter.json")
    assert card.run.extra == {"licence": "CC0", "notes": ["a", 1]}
    assert card.to_json() == changed(licence="CC0", notes=["a", 1])


def test_unknown_settings_are_refused_with_key_and_file(tmp_path):
    generator = ResnetGenerator(directions=["a2b"], width=4, blocks=1)
    content = json.loads((save_adapter(generator, tmp_path) / CARD).read_text())
    content["settings"]["widht"] = 8
    (tmp_path / CARD).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"adapter\.json.*unknown setting 'widht'.*Did you mean 'width'") as caught:
        read_adapter(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (changed(edits="make it night"), "edits must be a list of texts"),
        (changed(edits=["add fog", 3]), "edits must be a text"),
        (with_setting(rank_unet=0), "rank_unet must be an integer of at least 1 and at most 4096, got 0"),
        (with_setting(rank_vae=5000), "rank_vae"),
        (with_setting(rank_unet=True), "rank_unet"),
        (with_setting(rank_unet="8"), "rank_unet"),
        (with_setting(alpha_unet=float("nan")), "alpha_unet must be a finite number"),
        (with_setting(alpha_vae=float("inf")), "alpha_vae"),
        (with_setting(skips="yes"), "skips must be true or false"),
        (with_setting(skip_init="zeros"), "skip_init must be a finite number or 'gaussian'"),
        (with_setting(input_range="[0, 255]"), "input_range"),
        (with_setting(conditioning="lora"), "conditioning"),
        (with_setting(frozen_dtype="float16"), "frozen_dtype"),
        (with_setting(unet_targets=[]), "unet_targets must be a list of module names"),
        (with_setting(vae_targets=["conv", 3]), "vae_targets"),
        (with_setting(directions=[]), "directions must be a2b, b2a or both"),
        (with_setting(directions=["a2b", "a2b"]), "directions"),
        (with_setting(directions=["a2c"]), "directions"),
        (changed(settings={"directions": ["a2b"]}), "settings are incomplete.*rank_unet"),
        (changed(settings=None), "settings are missing"),
        (changed(prompts=["a"]), "prompts must be an object of texts"),
        (changed(prompts={"a2b": 3}), "prompts"),
        (changed(prompts={"there": "a day"}), "prompts must be given by direction"),
        (changed(images_seen=-1), "images_seen must be an integer of at least 0, got -1"),
        (changed(images_seen=1.5), "images_seen"),
        (changed(training_features="vgg"), "training_features must be a list of texts"),
        (changed(data=["folder"]), "data must be a text"),
        (changed(data_is_rendered="no"), "data_is_rendered"),
        (changed(preprocessing=[256]), "preprocessing must be an object"),
        (changed(base=7), "base must be a text"),
        (changed(base_random_init=None), "base_random_init"),
        (changed(versions={"torch": 2}), "versions"),
        (changed(metrics=[]), "metrics"),
        (changed(format=2), "format 2; this version reads format 1"),
    ],
)
def test_values_that_cannot_be_are_refused_with_the_file(content, words):
    with pytest.raises(ValueError, match=words) as caught:
        AdapterCard.from_json(content, "some/adapter.json")
    assert str(caught.value).startswith("some/adapter.json") and "\n" not in str(caught.value)


def test_a_card_cannot_be_edited():
    card = AdapterCard.from_json(OLD, "adapter.json")
    with pytest.raises(FrozenInstanceError):
        card.base = "other"
    with pytest.raises(FrozenInstanceError):
        card.run.images_seen = 3
    with pytest.raises(FrozenInstanceError):
        card.settings.rank_unet = 3


def test_saving_writes_the_card_of_this_generator_and_run(tmp_path):
    generator = ResnetGenerator(directions=["a2b"], width=4, blocks=1)
    generator.prompts = {"a2b": "a photograph"}
    run = RunFacts(task="paired", experiment="mine", images_seen=7, extra={"ablation of": "width"})
    read = read_adapter(save_adapter(generator, tmp_path, run)).card
    assert read.settings == ResnetSettings(directions=("a2b",), width=4, blocks=1) == generator.settings
    assert read.run == run and read.prompts == {"a2b": "a photograph"} and read.base == "resnet"
    assert list(json.loads((tmp_path / CARD).read_text())) == [
        *("format", "base", "base_random_init", "base_fingerprint", "base_description", "settings", "prompts"),
        *("task", "experiment", "images_seen", "ablation of", "versions", "weights"),
    ]


def test_settings_of_a_generator_of_ones_own_are_read_as_its_class():
    class Mine(ResnetGenerator):
        base_name = "mine"

    generator = Mine(directions=["a2b"], width=4, blocks=1)
    with pytest.raises(ValueError, match="declare `class ResnetSettings"):
        AdapterCard.of(generator, RunFacts())

    @dataclass(frozen=True, kw_only=True)
    class MySettings(Settings, base_name="mine"):
        depth: int

    generator.settings = MySettings(directions=("a2b",), depth=3)
    card = AdapterCard.from_json(AdapterCard.of(generator, RunFacts()).to_json(), "adapter.json")
    assert card.settings == generator.settings
    with pytest.raises(ValueError, match="unknown setting 'width'"):
        AdapterCard.from_json(replace(card, settings=ResnetGenerator(blocks=0).settings).to_json(), "adapter.json")
