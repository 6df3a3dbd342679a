"""Stage 1 of the pocket base: the autoencoder (Rombach et al. 2022, Sec. 3.1)."""

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from losses.reconstruction import PerceptualDistance, l1
from networks.discriminators import PatchDiscriminator
from networks.features import FeatureNetwork
from pretraining.batches import ImageBatch
from pretraining.hinge import hinge_discriminator_loss, hinge_generator_loss
from pretraining.stages.stage import Stage, StageOptions, optimizer, weighted_sum


class AutoencoderStage(Stage[ImageBatch]):
    """Trains the autoencoder with L1, perceptual distance and a small KL term, later with a patch discriminator.

    The discriminator trains the decoder alone: the encoder is frozen from then on, so that latents stay the same.

    Args:
        options: length, warm-up, seed and image grids.
        vae: the autoencoder, trained in place.
        weights: weights of the terms `l1`, `lpips`, `kl` (mean per latent value, nats) and `gan`.
        gan_from: share of the steps after which the encoder is frozen and the discriminator begins, in [0, 1].
        lr: learning rate of the autoencoder.
        lr_discriminator: learning rate of the discriminator.
        discriminator_width: channels of the discriminator's first layer.
        features: frozen network of the perceptual distance, or its name.
        clip_norm: gradient norm above which gradients are scaled down.
    """

    def __init__(
        self,
        options: StageOptions,
        vae: AutoencoderKL,
        weights: dict[str, float],
        gan_from: float = 0.67,
        lr: float = 1e-3,
        lr_discriminator: float = 2e-4,
        discriminator_width: int = 32,
        features: FeatureNetwork | str = "lite1",
        clip_norm: float = 1.0,
    ) -> None:
        super().__init__(options)
        self.automatic_optimization = False
        self.vae = vae
        self.perceptual = PerceptualDistance(features)
        self.perceptual.features.trunk.to(memory_format=torch.channels_last)  # a third faster on CPUs; not so the VAE
        self.discriminator = PatchDiscriminator(discriminator_width)
        self.weights, self.clip_norm = dict(weights), clip_norm
        self.lr, self.lr_discriminator = lr, lr_discriminator
        self.gan_step = round(gan_from * self.steps)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimisers of the autoencoder and of the discriminator."""
        return [
            optimizer(self.vae.parameters(), self.lr, (0.9, 0.99), 1e-4),
            optimizer(self.discriminator.parameters(), self.lr_discriminator, (0.5, 0.99), 0.0),
        ]

    def training_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """One step of the autoencoder, and one of the discriminator once it has begun."""
        image, step = batch["image"], batch["step"]
        for_vae, for_discriminator = self.both_optimizers()
        adversarial = step >= self.gan_step
        with torch.set_grad_enabled(not adversarial):
            posterior = self.vae.encode(image).latent_dist
            noise = self.normal(posterior.mean.shape, self.generator(step))
            latent = posterior.mean + posterior.std * noise
        output = self.vae.decode(latent).sample
        terms = {"l1": l1(output, image), "lpips": self.perceptual(output, image).mean()}
        if adversarial:
            self.discriminator.requires_grad_(False)
            terms["gan"] = hinge_generator_loss(self.discriminator(output))
            self.discriminator.requires_grad_(True)
        else:
            terms["kl"] = kl_divergence(posterior.mean, posterior.logvar)
        self.descend(for_vae, weighted_sum(terms, self.weights), self.clip_norm)
        if adversarial:
            terms["disc"] = hinge_discriminator_loss(self.discriminator(image), self.discriminator(output.detach()))
            self.descend(for_discriminator, terms["disc"], self.clip_norm)
        self.log_terms(terms, step)

    @torch.no_grad()
    def preview_images(self, batch: ImageBatch) -> tuple[int, Tensor]:
        """A row of inputs above a row of their reconstructions."""
        image = batch["image"][:8]
        return len(image), torch.cat([image, self.vae(image).sample])


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence of a diagonal Gaussian from the standard normal one, mean (Kingma and Welling 2014, App. B)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
