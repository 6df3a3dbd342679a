from types import SimpleNamespace

import pytest
import torch

from losses.reconstruction import PerceptualDistance, clip_similarity_loss, l1, l2
from networks.features import load_features

GENERATOR = torch.Generator().manual_seed(0)
IMAGE, OTHER = (torch.rand(2, 3, 40, 32, generator=GENERATOR) * 2 - 1 for _ in range(2))


@pytest.fixture(scope="module")
def lite() -> PerceptualDistance:
    return PerceptualDistance("lite1")


def test_pixel_losses_are_what_they_say():
    zero, half = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)
    assert l1(zero, half).item() == 0.5
    assert l2(zero, half).item() == 0.25
    assert l1(zero, half, torch.tensor([1.0, 0.0])).item() == 0.25
    assert l2(zero, half, torch.tensor([1.0, 0.0])).item() == 0.125


def test_different_shapes_are_refused(lite):
    for distance in (l1, l2, lite):
        with pytest.raises(ValueError, match="different shapes"):
            distance(IMAGE, IMAGE[:1])


def test_perceptual_distance_of_equal_images_is_exactly_zero(lite):
    assert lite(IMAGE, IMAGE.clone()).tolist() == [0.0, 0.0]


def test_perceptual_distance_is_per_image_and_symmetric(lite):
    both = lite(IMAGE, OTHER)
    assert both.shape == (2,)
    torch.testing.assert_close(lite(IMAGE[:1], OTHER[:1])[0], both[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(lite(OTHER, IMAGE), both)
    assert torch.equal(
        lite(torch.cat([IMAGE[:1]] * 2), torch.cat([IMAGE[:1], OTHER[:1]])) > 0, torch.tensor([False, True])
    )


def test_more_noise_is_farther(lite):
    smooth = torch.nn.functional.interpolate(IMAGE[:, :, ::8, ::8], (40, 32), mode="bilinear")
    noise = torch.randn(smooth.shape, generator=torch.Generator().manual_seed(1))
    near, far = (lite(smooth, (smooth + level * noise).clamp(-1, 1)).mean() for level in (0.05, 0.3))
    assert 0 < near < far


def test_label_names_the_network(lite):
    assert lite.label == "lpips(lite1)"
    assert PerceptualDistance("random").label == "lpips(random)"


def test_formula_written_out():
    distance = PerceptualDistance("random")
    expected = torch.zeros(2)
    for a, b in zip(distance.features.stages(IMAGE), distance.features.stages(OTHER), strict=True):
        channels, rows, columns = a.shape[1:]
        for n in range(2):
            for y in range(rows):
                for x in range(columns):
                    u, v = a[n, :, y, x], b[n, :, y, x]
                    expected[n] += (u / u.norm() - v / v.norm()).square().sum() / channels / (rows * columns)
    torch.testing.assert_close(distance(IMAGE, OTHER), expected, rtol=1e-4, atol=1e-6)


def test_gradient_is_finite_where_all_channels_are_zero():
    features = load_features("random")
    stages = [torch.zeros(1, 4, 2, 2, requires_grad=True)]
    features.distance(stages, [torch.ones(1, 4, 2, 2)]).sum().backward()
    assert stages[0].grad.isfinite().all()


def test_float32_under_autocast(lite):
    plain = lite(IMAGE, OTHER)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(lite(IMAGE, OTHER), plain)


def test_clip_loss_is_one_minus_the_score():
    vectors = {"same": [1.0, 0.0], "half": [0.5, 0.75**0.5], "away": [-1.0, 0.0]}
    clip = SimpleNamespace(
        embedding=lambda image: torch.tensor([[3.0, 0.0]]).expand(len(image), 2),
        text_embedding=lambda captions: torch.tensor([vectors[caption] for caption in captions]),
    )
    loss = clip_similarity_loss(clip, torch.zeros(3, 3, 4, 4), ["same", "half", "away"])
    torch.testing.assert_close(loss, torch.tensor([0.0, 0.5, 1.0]))
    with pytest.raises(ValueError, match="3 images but 1 captions"):
        clip_similarity_loss(clip, torch.zeros(3, 3, 4, 4), ["same"])


def test_targets_can_be_given_apart(lite):
    image, target = (torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(k)) * 2 - 1 for k in range(2))
    torch.testing.assert_close(lite(image, target[:1], target[1:]), lite(image, target))
    with pytest.raises(ValueError, match="different shapes"):
        lite(image, target[:1])
