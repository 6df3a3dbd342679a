"""The warping error is zero for a moved image, grows with flicker, and counts visible pixels alone."""

import pytest
import torch

from metrics.warping import warping_error


def test_a_moved_image_does_not_flicker():
    before = (torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    now = before.roll((2, 3), dims=(1, 2))
    flow = torch.tensor([-3.0, -2.0]).expand(20, 24, 2)
    visible = torch.zeros(20, 24, dtype=torch.bool)
    visible[2:, 3:] = True
    assert warping_error(now, before, flow, visible) < 1e-3
    assert warping_error(now, before, torch.zeros(20, 24, 2), visible) > 1000
    now[:, 2:, 3:] = (now[:, 2:, 3:].int() + 4).clamp(max=255).to(torch.uint8)
    assert 15 < warping_error(now, before, flow, visible) <= 16 + 1e-3, "in squared levels"
    now[:, :2] = 0
    assert warping_error(now, before, flow, visible) <= 16 + 1e-3


def test_shapes_that_differ_are_refused():
    frame = torch.zeros(3, 4, 5, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"\(4, 4, 2\)"):
        warping_error(frame, frame, torch.zeros(4, 4, 2), torch.ones(4, 5, dtype=torch.bool))
