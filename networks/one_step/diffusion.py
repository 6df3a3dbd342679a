"""The one-step estimate and the strength blend, in closed form (Ho et al. 2020, Eq. 15; arXiv 2403.12036, Sec. 3.4)."""

import torch
from torch import Tensor


def predict_x0(latent: Tensor, prediction: Tensor, alpha_bar: float, prediction_type: str = "epsilon") -> Tensor:
    """One-step estimate of the clean latent.

    ``epsilon``: ``x0 = (z - sqrt(1 - abar) eps) / sqrt(abar)`` (Ho et al. 2020, Eq. 15);
    ``v_prediction``: ``x0 = sqrt(abar) z - sqrt(1 - abar) v`` (Salimans & Ho 2022, App. D); ``sample``: the prediction.

    Always float32: at t = 999 of Stable Diffusion's schedule ``1 / sqrt(abar) = 14.65`` multiplies rounding errors.

    Args:
        latent: the UNet's input ``z_t``, ``(B, C, h, w)``.
        prediction: the UNet's output, same shape.
        alpha_bar: cumulative product of ``1 - beta`` at the timestep, in (0, 1].
        prediction_type: "epsilon", "v_prediction" or "sample", as the base's scheduler config says.

    Returns:
        ``(B, C, h, w)`` float32.

    Raises:
        ValueError: the prediction type is unknown.
    """
    with torch.autocast(latent.device.type, enabled=False):
        z, out = latent.float(), prediction.float()
        signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        if prediction_type == "epsilon":
            return (z - noise * out) / signal
        if prediction_type == "v_prediction":
            return signal * z - noise * out
        if prediction_type == "sample":
            return out
    raise ValueError(
        f"Unknown prediction_type {prediction_type!r}: the one-step estimate knows epsilon, v_prediction and sample."
    )


def blend(strength: Tensor, trained: Tensor, plain: Tensor) -> Tensor:
    """``r * trained + (1 - r) * plain`` for one ``r`` per sample (arXiv 2403.12036, Sec. 3.4).

    Args:
        strength: ``(B,)`` in [0, 1].
        trained: ``(B, ...)``.
        plain: same shape.

    Returns:
        ``(B, ...)`` in the inputs' dtype.
    """
    r = per_sample(strength, trained)
    return r * trained + (1 - r) * plain


def per_sample(strength: Tensor, like: Tensor) -> Tensor:
    """``(B,)`` -> ``(B, 1, ..., 1)``, so that it multiplies each sample of ``like``."""
    return strength.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def noise_map(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise from a CPU generator: the same on every device.

    Args:
        seed: any integer.
        shape: of one map, usually ``(1, 4, H / 8, W / 8)`` for the padded size.
    """
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
