"""Pictures from noise by the many-step teacher and by the one-step student."""

from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor, nn

from networks.one_step.diffusion import predict_x0


def encode_tokens(text_encoder: nn.Module, tokens: Tensor) -> Tensor:
    """Tokens `(B, L)` => context `(B, L, D)`; no attention mask, as `networks.one_step.prompts` embeds them."""
    return text_encoder(tokens).last_hidden_state


@torch.no_grad()
def draw_many_steps(
    unet: Any,
    context: Tensor,
    empty: Tensor,
    noise: Tensor,
    schedule: dict[str, Any],
    steps: int,
    guidance: float,
) -> Tensor:
    """DPM-Solver++ (Lu et al. 2022, second order, multistep) with classifier-free guidance (Ho and Salimans 2022).

    Args:
        unet: predicts as `schedule` says.
        context: of the prompts, `(B, L, D)`.
        empty: of the empty prompt, `(1, L, D)`.
        noise: the start, `(B, 4, h, w)`.
        schedule: the scheduler's config.
        steps: calls of the solver.
        guidance: 1 follows the prompt as trained, more exaggerates it.

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


def draw_one_step(unet: Any, context: Tensor, noise: Tensor, alpha_bar: float, timestep: int, kind: str) -> Tensor:
    """The clean latent of one prediction at the last timestep: exactly how the generator uses the UNet.

    Args:
        unet: the student.
        context: of the prompts, `(B, L, D)`.
        noise: `(B, 4, h, w)`.
        alpha_bar: of the schedule at that timestep.
        timestep: the last one.
        kind: what the UNet predicts.

    Returns:
        Scaled latents `(B, 4, h, w)` float32.
    """
    return predict_x0(noise, unet(noise, timestep, context).sample, alpha_bar, kind)
