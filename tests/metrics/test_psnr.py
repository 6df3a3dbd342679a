import math

import pytest
import torch

from metrics.psnr import psnr


def test_psnr_per_image():
    truth = torch.full((3, 3, 4, 4), 100, dtype=torch.uint8)
    image = truth.clone()
    image[1] += 10
    image[2, :, :2] += 10
    expected = [100.0, 20 * math.log10(255 / 10), 20 * math.log10(255 / 10) + 10 * math.log10(2)]
    torch.testing.assert_close(psnr(image, truth), torch.tensor(expected))
    with pytest.raises(ValueError, match="one shape"):
        psnr(image, truth[:1])
