"""The user's own loss terms and discriminators in training steps."""

import sys

import pytest
import torch

from lightning_modules.paired import PairedWeights
from lightning_modules.runtime import NonFiniteLossError
from lightning_modules.unpaired import UnpairedWeights
from tests.losses.test_extra import MODULE, entry

from .conftest import fit, paired_batch, unpaired_batch

NONE = UnpairedWeights(gan=0.0, cycle=0.0, cycle_lpips=0.0, idt=0.0, idt_lpips=0.0, disc=0.0)


@pytest.fixture(autouse=True)
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_terms.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_terms", None)


@pytest.fixture
def no_steps(monkeypatch):
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: closure() if closure else None)
    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", lambda self, set_to_none=True: None)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, norm: torch.zeros(()))


def gradients(module):
    return {n: p.grad for n, p in module.generator.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["MeanColour", "RoundTrip", "Identity"])
def test_every_update_gives_a_term_the_same_gradient(name, unpaired, no_steps):
    """Alone, with every term of the method at weight 0: what the term reads is computed for it."""
    found = []
    for update in ("fused", "split", "sequential"):
        module = unpaired(NONE, update=update, extra_terms=[entry(name)])
        fit(module, [unpaired_batch(2)])
        found.append(gradients(module))
        assert any(g.abs().sum() > 0 for g in found[-1].values())
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for key, gradient in found[0].items():
            assert (other[key] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-9, key


def test_the_weight_multiplies_the_gradient(unpaired, no_steps):
    found = []
    for weight in (1.0, 2.0):
        module = unpaired(NONE, extra_terms=[entry("RoundTrip", weight)])
        fit(module, [unpaired_batch(1)])
        found.append(gradients(module))
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], 2 * gradient, msg=key)


def test_terms_are_logged_by_direction(unpaired, paired, monkeypatch):
    logged = []
    module = unpaired(NONE, extra_terms=[entry("MeanColour", name="colour")])
    other = paired(PairedWeights(l2=0, lpips=0, clip=0, gan=0, disc=0), extra_terms=[entry("MeanColour")])
    for trained, batch in ((module, unpaired_batch(1)), (other, paired_batch(1))):
        monkeypatch.setattr(trained, "log_terms", lambda terms: logged.append(set(terms)))
        fit(trained, [batch])
    assert logged == [{"colour_a2b", "colour_b2a"}, {"mean_colour"}]


def test_a_paired_term_sees_the_target(paired, monkeypatch):
    seen = []
    module = paired(extra_terms=[entry("MeanColour")])
    monkeypatch.setattr(module.extra_terms[0].function, "forward", lambda x: [seen.append(x), x.fake.mean()][1])
    batch = paired_batch(1)
    fit(module, [batch])
    (inputs,) = seen
    assert torch.equal(inputs.target, batch.real_b) and torch.equal(inputs.source, batch.real_a)
    assert inputs.prompts == batch.captions and inputs.example is inputs.reconstruction is inputs.identity is None


def test_a_term_that_is_not_finite_stops_training(unpaired, monkeypatch):
    module = unpaired(extra_terms=[entry("MeanColour")])
    monkeypatch.setattr(module.extra_terms[0].function, "forward", lambda x: x.fake.mean() * float("nan"))
    with pytest.raises(NonFiniteLossError, match="mean_colour_a2b=nan"):
        fit(module, [unpaired_batch(1)])


def test_a_discriminator_that_returns_no_list_is_refused(paired):
    class Bare(torch.nn.Conv2d):
        def forward(self, image, seeds=None):
            return super().forward(image)

    with pytest.raises(ValueError, match="Bare must return a list of logits"):
        fit(paired(disc=Bare(3, 1, 3)), [paired_batch(1)])


def test_the_second_direction_shares_what_is_frozen_and_trains_its_own(unpaired, monkeypatch):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen, self.head = torch.nn.Conv2d(3, 4, 3).requires_grad_(False), torch.nn.Conv2d(4, 1, 1)

        def forward(self, image, seeds=None):
            return [self.head(self.frozen(image))]

    monkeypatch.setattr("tests.lightning_modules.conftest.discriminator", Own)
    both = unpaired().discriminators
    assert both["a2b"].frozen.weight is both["b2a"].frozen.weight
    assert both["a2b"].head.weight is not both["b2a"].head.weight
