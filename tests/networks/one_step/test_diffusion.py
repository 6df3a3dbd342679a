import pytest
import torch
from diffusers import DDPMScheduler

from networks.one_step.bases import POCKET
from networks.one_step.diffusion import blend, noise_map, predict_x0


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_closed_form_equals_the_scheduler(prediction_type):
    scheduler = DDPMScheduler.from_pretrained(POCKET, subfolder="scheduler", prediction_type=prediction_type)
    scheduler.set_timesteps(1)
    z, out = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    theirs = scheduler.step(out, scheduler.timesteps[0], z).pred_original_sample
    ours = predict_x0(z, out, float(scheduler.alphas_cumprod[-1]), prediction_type)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


def test_alpha_bar_is_stable_diffusions():
    scheduler = DDPMScheduler.from_pretrained(POCKET, subfolder="scheduler")
    assert float(scheduler.alphas_cumprod[-1]) == pytest.approx(0.00466, abs=5e-6)


def test_float32_whatever_the_autocast():
    z, out = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = predict_x0(z, out, 0.00466)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, predict_x0(z, out, 0.00466))


def test_blend_is_per_sample():
    a, b = torch.ones(3, 2, 4, 4), torch.zeros(3, 2, 4, 4)
    assert blend(torch.tensor([0.0, 0.25, 1.0]), a, b)[:, 0, 0, 0].tolist() == [0.0, 0.25, 1.0]


def test_noise_map_depends_on_its_seed_alone():
    torch.manual_seed(0)
    first = noise_map(7, (1, 4, 8, 8))
    torch.randn(5)
    assert torch.equal(first, noise_map(7, (1, 4, 8, 8)))
    assert not torch.equal(first, noise_map(8, (1, 4, 8, 8)))


def test_unknown_prediction_type():
    with pytest.raises(ValueError, match="flow"):
        predict_x0(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2), 0.5, "flow")
