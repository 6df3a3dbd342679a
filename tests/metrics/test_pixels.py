import math

import pytest
import torch

from metrics.pixels import as_image, psnr, quantise


def test_round_trip_of_every_level():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(quantise(as_image(levels)), levels)
    assert quantise(torch.tensor([-1.0, 0.0, 1.0])).tolist() == [0, 128, 255]


@pytest.mark.parametrize("value", [-1.1, 1.1, 2.0, float("nan"), float("inf")])
def test_what_is_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match=r"images in \[-1, 1\], got values from"):
        quantise(torch.tensor([0.0, value]))


def test_psnr_per_image():
    truth = torch.full((3, 3, 4, 4), 100, dtype=torch.uint8)
    picture = truth.clone()
    picture[1] += 10
    picture[2, :, :2] += 10
    expected = [100.0, 20 * math.log10(255 / 10), 20 * math.log10(255 / 10) + 10 * math.log10(2)]
    torch.testing.assert_close(psnr(picture, truth), torch.tensor(expected))
    with pytest.raises(ValueError, match="one shape"):
        psnr(picture, truth[:1])
