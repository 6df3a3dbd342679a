import pytest
import torch
from torch import nn

from networks.discriminators import (
    Blur,
    EnsembleDiscriminator,
    PatchDiscriminator,
    VisionAidedDiscriminator,
    augment,
)
from networks.features import load_features

IMAGE = torch.rand(3, 3, 32, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
SEEDS = torch.tensor([5, 2**40 + 5, 7])


@pytest.fixture
def aided() -> VisionAidedDiscriminator:
    torch.manual_seed(0)
    return VisionAidedDiscriminator("random", width=8)


def test_only_the_heads_train(aided):
    expected = {
        f"{head}.parametrizations.weight.original"
        for head in ("map_heads.0.0", "map_heads.0.3", "map_heads.1.0", "map_heads.1.3")
    } | {f"embedding_head.{k}.parametrizations.weight.original" for k in (0, 2)}
    expected |= {name.replace("parametrizations.weight.original", "bias") for name in expected}
    assert {name for name, weight in aided.named_parameters() if weight.requires_grad} == expected
    assert {name for name, _ in aided.named_parameters()} == expected
    # spectral norm's vectors are state too; nothing of the frozen network is
    assert {name for name in aided.state_dict() if not name.endswith(("._u", "._v"))} == expected


def test_gradient_reaches_image_and_heads_but_not_the_frozen_network(aided):
    image = IMAGE.clone().requires_grad_(True)
    sum(logits.mean() for logits in aided(image, SEEDS)).backward()
    assert all(image.grad[k].abs().sum() > 0 for k in range(3))
    assert all(weight.grad is not None for weight in aided.parameters())
    assert all(weight.grad is None for weight in aided.features.trunk.parameters())


def test_two_maps_and_an_embedding(aided):
    shapes = [tuple(logits.shape) for logits in aided(IMAGE)]
    assert shapes == [(3, 1, 8, 10), (3, 1, 4, 5), (3, 1)]


def test_lite_heads_stand_on_strides_8_and_16_at_native_resolution():
    discriminator = VisionAidedDiscriminator("lite1", width=4)
    assert [tuple(logits.shape) for logits in discriminator(IMAGE[:1])] == [(1, 1, 4, 5), (1, 1, 2, 3), (1, 1)]


def test_network_without_embedding_is_refused():
    network = load_features("random")
    network.width = None
    with pytest.raises(ValueError, match="'random' lacks the stages or the embedding"):
        VisionAidedDiscriminator(network)


def test_learns_to_tell_bright_from_dark(aided):
    optimiser = torch.optim.Adam(aided.parameters(), 1e-2)
    bright, dark = IMAGE * 0.3 + 0.5, IMAGE * 0.3 - 0.5
    for _ in range(30):
        loss = sum(
            nn.functional.softplus(-r).mean() + nn.functional.softplus(f).mean()
            for r, f in zip(aided(bright), aided(dark), strict=True)
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert all(r.mean() > f.mean() for r, f in zip(aided(bright), aided(dark), strict=True))


def test_augmentation_depends_on_each_images_own_seed_only():
    together = augment(IMAGE, SEEDS)
    for k in range(3):
        assert torch.equal(augment(IMAGE[k : k + 1], SEEDS[k : k + 1])[0], together[k])
    torch.manual_seed(99)
    assert torch.equal(augment(IMAGE, SEEDS), together)
    assert torch.equal(augment(IMAGE.flip(0), SEEDS.flip(0)), together.flip(0))
    same = augment(IMAGE[:1].expand(2, -1, -1, -1), SEEDS[:2])  # seeds that differ in their upper half only
    assert not torch.equal(same[0], same[1])


def test_without_seeds_or_with_augment_off_nothing_is_drawn(aided):
    aided.eval()
    plain = aided(IMAGE)
    assert not torch.equal(aided(IMAGE, SEEDS)[0], plain[0])
    aided.augment = False
    assert torch.equal(aided(IMAGE, SEEDS)[0], plain[0])


def test_augmentation_moves_and_cuts_as_described():
    white = torch.ones(200, 3, 32, 32)
    changed = augment(white, torch.arange(200))
    covered = (changed != 0).all(dim=1)
    # translation uncovers at most an eighth per axis, the hole at most a quarter of the area
    shares = covered.flatten(1).float().mean(dim=1)
    assert shares.min() >= 28 / 32 * 28 / 32 - 0.25 - 1e-6
    assert 0.6 < shares.mean() < 0.85
    # a constant grey image has no saturation or contrast to change: only brightness, by up to 0.5 either way
    levels = changed.amax(dim=(1, 2, 3))
    assert levels.min() >= 0.5 - 1e-6
    assert levels.max() <= 1.5 + 1e-6
    assert abs(levels.mean() - 1) < 0.07
    # what is moved is moved, not resampled: every pixel of a translated picture exists in the original
    column = torch.linspace(0.1, 0.9, 32).expand(1, 3, 32, 32)
    kept = augment(column, torch.tensor([3]))[0, 0]
    values = kept[kept != 0].unique()
    steps = values.diff()
    assert torch.allclose(steps, steps.mean().expand_as(steps), rtol=1e-2)


def test_augmentation_is_differentiable():
    image = IMAGE.clone().requires_grad_(True)
    augment(image, SEEDS).square().sum().backward()
    assert image.grad.abs().sum() > 0


def test_blur_keeps_a_constant_and_halves_the_highest_frequency():
    constant = torch.full((1, 2, 5, 5), 3.0)
    assert torch.allclose(Blur()(constant), constant)
    stripes = torch.tensor([1.0, -1.0] * 4).expand(1, 1, 8, 8)
    assert Blur()(stripes)[..., 1:-1].abs().max() < 1e-6


def receptive_field(model: PatchDiscriminator, size: int) -> int:
    image = torch.zeros(1, 3, size, size, requires_grad=True)
    logits = model(image)[0]
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    rows = image.grad.abs().sum(dim=(0, 1, 3)).nonzero()
    return (rows.max() - rows.min() + 1).item()


def test_patchgan_sees_70_pixels_with_three_layers():
    assert receptive_field(PatchDiscriminator(width=2, norm="spectral"), 128) == 70
    assert receptive_field(PatchDiscriminator(width=2, layers=2, norm="spectral"), 128) == 34


def test_patchgan_at_its_smallest_size_and_below():
    for norm in ("instance", "spectral"):
        model = PatchDiscriminator(width=4, norm=norm)
        assert model(IMAGE[:, :, :24, :24])[0].shape[:2] == (3, 1)
        with pytest.raises(ValueError, match=r"24 px or more, got 24x23"):
            model(IMAGE[:, :, :23, :24])
    with pytest.raises(ValueError, match="Unknown norm 'batch'"):
        PatchDiscriminator(norm="batch")


def test_instance_norm_scores_each_image_by_itself():
    model = PatchDiscriminator(width=4).train()
    assert torch.allclose(model(IMAGE)[0][:1], model(IMAGE[:1])[0], atol=1e-6)


def test_ensemble_joins_the_lists_in_order(aided):
    patch = PatchDiscriminator(width=4)
    both = EnsembleDiscriminator([aided, patch]).eval()
    expected = [*aided(IMAGE, SEEDS), *patch(IMAGE)]
    assert all(torch.equal(a, b) for a, b in zip(both(IMAGE, SEEDS), expected, strict=True))
    with pytest.raises(ValueError, match="at least one"):
        EnsembleDiscriminator([])
