"""pix2pix-Turbo: paired translation (arXiv 2403.12036, Sec. 3.3)."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from datamodules.batches import EvaluationBatch, PairedBatch, Translation
from lightning_modules.base import TranslationModule
from losses.adversarial import discriminator_loss, generator_loss
from losses.reconstruction import PerceptualDistance, clip_similarity_loss, l1, l2
from losses.terms import weighted_total
from networks import ImageTranslator
from networks.checkpoints.card import RunFacts
from networks.features import FeatureNetwork, load_features
from networks.one_step.prompts import CACHE

AT_ONCE = 32  # captions that the text encoder reads together


@dataclass
class PairedWeights:
    """Weights of the loss terms; a term of weight 0 is not computed.

    Attributes:
        l2: squared difference to the target.
        lpips: perceptual distance to the target.
        clip: 1 - CLIP similarity of output and caption.
        gan: adversarial, generator's side.
        disc: adversarial, discriminator's side.
        l1: absolute difference to the target; pix2pix's term (Isola et al. 2017), not the method's.
    """

    l2: float = 1.0
    lpips: float = 5.0
    clip: float = 5.0
    gan: float = 0.5
    disc: float = 1.0
    l1: float = 0.0


class Pix2PixTurbo(TranslationModule):
    """An input, its target and a caption per image.

    A batch with `strength` trains the stochastic model: noise is blended in and the reconstruction terms are weighted
    by each image's ``r``.

    Args:
        generator: one direction, "a2b"; the paper feeds it in [0, 1].
        discriminator: judges the output.
        optimizer_g: builds the generator's optimiser.
        optimizer_d: builds the discriminator's optimiser.
        prompts: ``{"a2b": caption}`` for images without one.
        weights: of the loss terms.
        lpips_features: network of the LPIPS term: "vgg" (the paper), "lite1" (offline); not loaded at weight 0.
        clip_features: CLIP of the caption term: a hub id or a folder; not loaded at weight 0.
        real_label: what the discriminator should say of real images (smoothed, 0.8 as released).
        warmup_images: see `TranslationModule`.
        clip_norm: see `TranslationModule`.
        accumulate: see `TranslationModule`.
        max_images: see `TranslationModule`.
        skip_lr_factor: see `TranslationModule`.
        cooldown: see `TranslationModule`.
        card: further entries of adapter.json, such as the labels of a trial in an ablation.

    Raises:
        ValueError: the generator has another direction than a2b, which would never train.
    """

    def __init__(
        self,
        generator: ImageTranslator,
        discriminator: nn.Module,
        optimizer_g: OptimizerCallable,
        optimizer_d: OptimizerCallable,
        prompts: dict[str, str],
        weights: PairedWeights,
        lpips_features: str = "vgg",
        clip_features: str | None = None,
        real_label: float = 0.8,
        warmup_images: int = 0,
        clip_norm: float = 1.0,
        accumulate: int = 1,
        max_images: int | None = None,
        skip_lr_factor: float = 1.0,
        cooldown: float = 0.0,
        card: dict[str, Any] | None = None,
    ) -> None:
        if list(generator.directions) != ["a2b"]:
            raise ValueError(
                f"pix2pix-Turbo trains a2b alone, the generator has {' and '.join(generator.directions)}: "
                "set model.init_args.generator.init_args.directions=[a2b]."
            )
        super().__init__(
            generator,
            nn.ModuleDict({"a2b": discriminator}),
            optimizer_g,
            optimizer_d,
            warmup_images,
            clip_norm,
            accumulate,
            max_images,
            skip_lr_factor,
            cooldown,
            prompts,
            RunFacts.from_json({"task": "paired", **(card or {})}),
        )
        self.weights = {name: w for name, w in asdict(weights).items() if w}
        self.perceptual: Any = PerceptualDistance(load_features(lpips_features)) if "lpips" in self.weights else None
        self.clip: Any = None
        if "clip" in self.weights:
            # The discriminator's own, where it is the same: 600 MB.
            judges = [m for m in discriminator.modules() if isinstance(m, FeatureNetwork) and m.name == "clip"]
            self.clip = judges[0] if judges and clip_features is None else load_features("clip", clip_features)
        self.real_label = real_label

    def on_fit_start(self) -> None:
        """Embed the data's captions once, where the cache holds them all; the text encoder leaves memory."""
        super().on_fit_start()
        given = getattr(self.trainer.datamodule, "captions", {})  # type: ignore[attr-defined]
        captions = list(dict.fromkeys([self.generator.prompts["a2b"], *(c for stage in given.values() for c in stage)]))
        if len(captions) <= CACHE:
            for k in range(0, len(captions), AT_ONCE):
                self.generator.encode_prompts(captions[k : k + AT_ONCE], self.device)
            self.generator.encode_prompts.release()

    def training_step(self, batch: PairedBatch, batch_idx: int) -> dict[str, Tensor]:
        """One batch: generator, then discriminator."""
        with self.frozen_discriminators():
            fake_b = self._translate(batch)
            terms = self._generator_terms(batch, fake_b)
            total = weighted_total(terms, {name: w for name, w in self.weights.items() if name != "disc"})
            self.check_finite(total, terms, batch.names)
            self.optimise(0, total)
        if "disc" in self.weights:
            judge = self.discriminators["a2b"]
            disc = {
                "disc": discriminator_loss(
                    judge(batch.real_b, batch.seed), judge(fake_b.detach(), batch.seed), self.real_label
                )
            }
            total = weighted_total(disc, {"disc": self.weights["disc"]})
            self.check_finite(total, disc, batch.names)
            self.optimise(1, total)
            terms |= disc
        self.count(batch.real_a.shape[0])
        self.log_terms(terms)
        return {name: term.detach() for name, term in terms.items()}  # for the progress display

    def _translate(self, batch: PairedBatch) -> Tensor:
        embedding = self.generator.encode_prompts(batch.captions, self.device)
        wanted = self.generator.reads_noise or batch.strength is not None
        noise = self.noise_of(batch.real_a, batch.seed) if wanted else None
        return self.generator(batch.real_a, embedding, "a2b", batch.strength, noise)

    def _generator_terms(self, batch: PairedBatch, fake_b: Tensor) -> dict[str, Tensor]:
        terms = {}
        r = torch.ones(len(fake_b), device=self.device) if batch.strength is None else batch.strength
        if "l1" in self.weights:
            terms["l1"] = l1(fake_b, batch.real_b, r)
        if "l2" in self.weights:
            terms["l2"] = l2(fake_b, batch.real_b, r)
        if "lpips" in self.weights:
            terms["lpips"] = (r * self.perceptual(fake_b, batch.real_b)).mean()
        if "clip" in self.weights:
            terms["clip"] = clip_similarity_loss(self.clip, fake_b, batch.captions).mean()
        if "gan" in self.weights:
            terms["gan"] = generator_loss(self.discriminators["a2b"](fake_b, batch.seed))
        return terms

    # Lightning expects tensors or dicts of a step; callbacks here read one typed object.
    def validation_step(  # type: ignore[override]
        self, batch: EvaluationBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> Translation:
        """Translate deterministically."""
        captions = batch.captions or [self.generator.prompts["a2b"]] * len(batch.real)
        # Float32 whatever the training precision: the picture must be the exported adapter's.
        with torch.autocast(self.device.type, enabled=False):
            fake = self.generator(batch.real, self.generator.encode_prompts(captions, self.device))
        return Translation(batch.direction, batch.real, fake, batch.index, batch.names, batch.truth, batch.captions)

    test_step = validation_step  # type: ignore[assignment]
