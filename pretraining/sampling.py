"""Sampling latents: many steps of the teacher, one step of the student."""

from collections.abc import Mapping

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor, nn

from networks.one_step.diffusion import predict_x0


def encode_tokens(text_encoder: nn.Module, tokens: Tensor) -> Tensor:
    """Tokens `(B, L)` => context `(B, L, D)`, without attention mask, as in `networks.one_step.prompts`."""
    return text_encoder(tokens).last_hidden_state


@torch.no_grad()
def draw_many_steps(
    unet: nn.Module,
    context: Tensor,
    empty: Tensor,
    noise: Tensor,
    schedule: Mapping[str, object],
    steps: int,
    guidance: float,
) -> Tensor:
    """Sample with DPM-Solver++ (Lu et al. 2022, 2M) and classifier-free guidance (Ho and Salimans 2022).

    Args:
        unet: the teacher; predicts what `schedule` names.
        context: embeddings of the prompts, `(B, L, D)`.
        empty: embedding of the empty prompt, `(1, L, D)`.
        noise: the initial noise, `(B, 4, h, w)`.
        schedule: config of the noise schedule.
        steps: steps of the solver.
        guidance: guidance scale; 1 is none.

    Returns:
        Scaled latents `(B, 4, h, w)`.
    """
    solver = DPMSolverMultistepScheduler.from_config({**schedule, "algorithm_type": "dpmsolver++"})
    solver.set_timesteps(steps)
    latent, both = noise, torch.cat([context, empty.expand_as(context)])
    for t in solver.timesteps:
        time = t.to(noise.device)
        if guidance == 1:
            prediction = unet(latent, time, context).sample
        else:
            prompted, free = unet(torch.cat([latent, latent]), time, both).sample.chunk(2)
            prediction = free + guidance * (prompted - free)
        latent = solver.step(prediction, t, latent).prev_sample
    return latent


def draw_one_step(
    unet: nn.Module, context: Tensor, noise: Tensor, alpha_bar: float, timestep: int, prediction_type: str
) -> Tensor:
    """Sample with one prediction at the last timestep, as the one-step generator does.

    Args:
        unet: the student.
        context: embeddings of the prompts, `(B, L, D)`.
        noise: the noise, `(B, 4, h, w)`.
        alpha_bar: alpha_bar of the last timestep.
        timestep: the last timestep.
        prediction_type: what the UNet predicts, such as "epsilon".

    Returns:
        Scaled latents `(B, 4, h, w)` float32.
    """
    return predict_x0(noise, unet(noise, timestep, context).sample, alpha_bar, prediction_type)
