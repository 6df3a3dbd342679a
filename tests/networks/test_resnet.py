import functools

import pytest
import torch

from networks import OneStepGenerator, ResnetGenerator, load_generator
from networks.checkpoints.adapter import save_adapter
from networks.checkpoints.card import RunFacts


def images(n, height, width, seed=0):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def small():
    torch.manual_seed(0)
    return functools.partial(ResnetGenerator, width=4, blocks=1)


def test_the_published_network():
    """Zhu et al. 2017: six blocks of width 64 are 7.8 M parameters per direction."""
    generator = ResnetGenerator(["a2b"])
    assert sum(p.numel() for p in generator.parameters()) == 7_837_699
    assert sum(m.weight.shape[0] == 256 for m in generator.modules() if isinstance(m, torch.nn.Conv2d)) == 13


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 46), (8, 9), (5, 3), (1, 20)])
def test_any_size_comes_back_in_range(small, height, width):
    y = small().translate(images(2, height, width), "no words", "b2a")
    assert y.shape == (2, 3, height, width)
    assert y.dtype == torch.float32
    assert y.abs().max() <= 1


def test_padding_is_cropped_from_where_it_was_added(small):
    generator, image = small(), images(1, 32, 30)
    padded = torch.nn.functional.pad(image, (0, 2, 0, 0), mode="reflect")
    torch.testing.assert_close(generator.translate(image, ""), generator.translate(padded, "")[..., :30])


def test_directions_have_networks_of_their_own(small):
    generator, image = small(), images(1, 16, 16)
    together = generator.translate_together({"a2b": image, "b2a": image}, {"a2b": None, "b2a": None})
    assert not torch.equal(together["a2b"], together["b2a"])
    for direction, fake in together.items():
        assert torch.equal(fake, generator.translate(image, "", direction))


def test_words_are_not_read(small):
    generator, image = small(), images(1, 16, 16)
    assert torch.equal(generator.translate(image, "fog"), generator.translate(image, "night"))
    assert "not read" in generator.base_description


def test_an_adapter_holds_the_whole_network(small, tmp_path):
    generator, image = small(directions=["a2b"]), images(1, 16, 16)
    generator.prompts = {"a2b": "a photograph"}
    save_adapter(generator, tmp_path, RunFacts(task="paired"))
    loaded = load_generator(tmp_path)
    assert isinstance(loaded, ResnetGenerator)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(loaded.merge().translate(image), generator.translate(image))
    torch.manual_seed(1)
    assert torch.equal(small(directions=["a2b"], init=str(tmp_path)).translate(image), generator.translate(image))


def test_what_does_not_fit_is_refused(small, tmp_path, two_level_base):
    save_adapter(small(), tmp_path / "plain")
    save_adapter(OneStepGenerator(str(two_level_base), rank_unet=4, rank_vae=2), tmp_path / "one step")
    with pytest.raises(ValueError, match="leave out base=pocket"):
        load_generator(tmp_path / "plain", "pocket")
    with pytest.raises(ValueError, match="cannot start another base"):
        OneStepGenerator(str(two_level_base), init=str(tmp_path / "plain"))
    with pytest.raises(ValueError, match="was trained on the base"):
        small(init=str(tmp_path / "one step"))
    with pytest.raises(ValueError, match="does not fit this model"):
        small(blocks=2, init=str(tmp_path / "plain"))
    with pytest.raises(ValueError, match="leave strength at 1"):
        small().translate(images(1, 16, 16), "", strength=0.5)
    with pytest.raises(ValueError, match="translates a2b"):
        small(directions=["a2b"]).translate(images(1, 16, 16), "", "b2a")
    for arguments, words in (({"width": 0}, "width"), ({"blocks": -1}, "blocks"), ({"directions": ["a2c"]}, "a2c")):
        with pytest.raises(ValueError, match=words):
            ResnetGenerator(**{"width": 4, **arguments})
