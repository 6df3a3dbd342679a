"""Loss terms of the user's own: construction, mistakes, and training under every update."""

import sys

import pytest
import torch

from losses.extra import build_extra_terms
from losses.terms import LossTerm, TermInputs

MODULE = """
import torch

class MeanColour(torch.nn.Module):
    def __init__(self, power=1.0):
        super().__init__()
        self.power, self.scale = power, torch.nn.Parameter(torch.ones(()))

    def forward(self, inputs):
        return (self.scale * (inputs.fake.mean() - inputs.source.mean()).abs() ** self.power)

class RoundTrip:
    reads = ("reconstruction",)
    def __call__(self, inputs):
        return (inputs.reconstruction - inputs.source).square().mean()

class Identity:
    reads = ("identity",)
    def __call__(self, inputs):
        return (inputs.identity - inputs.example).square().mean()

class Everything:
    reads = ("fake", "reconstruction", "identity")
    def __call__(self, inputs):
        return inputs.fake.mean() + inputs.reconstruction.mean() + inputs.identity.mean()

class Misread:
    reads = ("recontruction",)
    def __call__(self, inputs):
        return inputs.fake.mean()

def brightness(inputs, level=0.0):
    return (inputs.fake.mean() - level).square()
"""
FUSED = [frozenset(("fake", "reconstruction", "identity"))]
PAIRED = [frozenset(("fake",))]


@pytest.fixture(autouse=True)
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_terms.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_terms", None)


def entry(class_name, weight=1.0, **more):
    return {"class_path": f"own_terms.{class_name}", "weight": weight, **more}


def test_classes_and_functions_become_named_terms_and_modules_are_frozen():
    entries = [entry("MeanColour", 2.0, init_args={"power": 2.0}), entry("brightness", init_args={"level": 0.5})]
    colour, brightness = build_extra_terms([*entries, entry("RoundTrip", 0.0)], ["gan"], FUSED)
    assert (colour.name, colour.weight, brightness.name) == ("mean_colour", 2.0, "brightness")
    assert colour.function.power == 2.0
    assert not any(p.requires_grad for p in colour.function.parameters()) and not colour.function.training
    image = torch.full((1, 3, 4, 4), 1.0)
    inputs = TermInputs("a2b", image, image, ["a street"], torch.zeros(1, dtype=torch.int64))
    assert brightness(inputs).item() == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (entry("MeanColor"), "Did you mean 'MeanColour'"),
        ({"class_path": "nowhere.Term", "weight": 1.0}, "PYTHONPATH"),
        (entry("MeanColour", init_args={"powr": 2}), "powr"),
        (entry("MeanColour", name="gan"), "taken by another term"),
        (entry("Misread"), "Did you mean 'reconstruction'"),
    ],
)
def test_a_mistake_is_named(wrong, said):
    with pytest.raises(ValueError, match=said):
        build_extra_terms([wrong], ["gan"], FUSED)


def test_a_term_reads_only_what_one_backward_pass_has():
    with pytest.raises(ValueError, match="reads fake and identity and reconstruction"):
        build_extra_terms([entry("Everything")], [], [frozenset(("fake", "reconstruction")), frozenset(("identity",))])
    with pytest.raises(ValueError, match="reads reconstruction"):
        build_extra_terms([entry("RoundTrip")], [], PAIRED)


def test_a_term_returns_a_scalar():
    image = torch.zeros(2, 3, 4, 4)
    inputs = TermInputs("a2b", image, image, ["", ""], torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"'wide' must return a scalar tensor, got a tensor \(2, 3, 4, 4\)"):
        LossTerm("wide", lambda inputs: inputs.fake, 1.0)(inputs)
