import math

import pytest
import torch

from losses.adversarial import discriminator_loss, generator_loss


def logits(value: float, batch: int = 2) -> list[torch.Tensor]:
    return [torch.full((batch, 1, 3, 3), value), torch.full((batch, 1), value)]


def test_undecided_discriminator_costs_ln_2_a_level():
    assert generator_loss(logits(0.0)).item() == pytest.approx(2 * math.log(2))
    assert discriminator_loss(logits(0.0), logits(0.0)).item() == pytest.approx(2 * math.log(2))


def test_orderings():
    assert generator_loss(logits(2.0)) < generator_loss(logits(-2.0))
    assert discriminator_loss(logits(2.0), logits(-2.0)) < discriminator_loss(logits(-2.0), logits(2.0))


def test_real_and_fake_have_half_weight_each():
    real_only = discriminator_loss(logits(1.0), logits(-100.0))
    fake_only = discriminator_loss(logits(100.0), logits(-1.0))
    assert real_only.item() == pytest.approx(2 * 0.5 * math.log1p(math.exp(-1)))
    assert fake_only.item() == pytest.approx(real_only.item())


def test_smooth_label_is_best_met_by_its_own_probability():
    best = math.log(0.8 / 0.2)
    losses = [
        discriminator_loss(logits(x), logits(-9.0), real_label=0.8).item() for x in (best - 0.5, best, best + 0.5)
    ]
    assert losses[1] == min(losses)


def test_levels_weigh_alike_whatever_their_size():
    large, small = torch.zeros(1, 1, 50, 50), torch.full((1, 1), 3.0)
    assert torch.isclose(generator_loss([large, small]), generator_loss([large]) + generator_loss([small]))


def test_batch_of_two_is_the_mean_of_two_batches_of_one():
    generator = torch.Generator().manual_seed(0)
    real, fake = (
        [torch.randn(2, 1, 4, 4, generator=generator), torch.randn(2, 1, generator=generator)] for _ in range(2)
    )
    whole = discriminator_loss(real, fake)
    parts = [discriminator_loss([x[k : k + 1] for x in real], [x[k : k + 1] for x in fake]) for k in range(2)]
    assert torch.isclose(whole, (parts[0] + parts[1]) / 2)


def test_the_loss_of_bfloat16_logits_is_computed_in_float32():
    assert generator_loss([torch.zeros(1, 1, dtype=torch.bfloat16)]).dtype == torch.float32
