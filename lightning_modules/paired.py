"""pix2pix-Turbo: paired translation (arXiv 2403.12036, Sec. 3.4)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from datamodules.batches import EvaluationBatch, PairedBatch, Translation
from lightning_modules.base import Terms, TranslationModule, feature_networks
from limits import check_settings
from losses.adversarial import discriminator_loss, generator_loss
from losses.extra import ExtraTerm, build_extra_terms
from losses.reconstruction import PerceptualDistance, clip_similarity_loss, l1, l2
from losses.terms import TermInputs, check_weights
from networks import ImageTranslator
from networks.checkpoints.card import RunFacts
from networks.features import ClipFeatures, described_once, load_features
from networks.one_step.prompts import CACHE


@runtime_checkable
class CaptionedData(Protocol):
    """A data module whose captions are known before training.

    Attributes:
        captions: captions of the images, by split.
    """

    captions: Mapping[str, Sequence[str]]


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

    Raises:
        ValueError: a weight is negative or not finite.
    """

    l2: float = 1.0
    lpips: float = 5.0
    clip: float = 5.0
    gan: float = 0.5
    disc: float = 1.0
    l1: float = 0.0

    def __post_init__(self) -> None:
        """Validate."""
        check_weights(asdict(self))


class Pix2PixTurbo(TranslationModule):
    """An input, its target and a caption per image.

    A batch with `strength` trains the stochastic model: noise is blended in and the reconstruction terms are weighted
    by each image's ``r``.

    Args:
        generator: one direction, "a2b"; the paper feeds it in [0, 1].
        discriminator: scores the output; a `torch.nn.Module` that satisfies `networks.contract.Discriminator`.
        optimizer_g: builds the generator's optimiser.
        optimizer_d: builds the discriminator's optimiser.
        prompts: ``{"a2b": caption}`` for images without one.
        weights: of the loss terms.
        lpips_features: network of the LPIPS term: "vgg" (the paper), "lite1" (offline); not loaded at weight 0.
        clip_features: CLIP of the caption term: a hub id or a folder; not loaded at weight 0.
        real_label: the discriminator's target for real images (smoothed, 0.8 as released).
        extra_terms: your own terms of the generator's loss; see `losses.extra.ExtraTerm`.  There is no reconstruction
            and no identity to read.
        card: further entries of adapter.json, such as the labels of a trial in an ablation.
        **training: further arguments of `TranslationModule`.

    Raises:
        ValueError: the generator has another direction than a2b, which would never train, or an extra term cannot be
            used.
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
        extra_terms: Sequence[ExtraTerm] = (),
        card: dict[str, Any] | None = None,
        **training: Any,
    ) -> None:
        check_settings(real_label=real_label)
        if list(generator.directions) != ["a2b"]:
            raise ValueError(
                f"pix2pix-Turbo trains a2b alone, the generator has {' and '.join(generator.directions)}: "
                "set model.init_args.generator.init_args.directions=[a2b]."
            )
        terms = build_extra_terms(extra_terms, asdict(weights), [frozenset(("fake",))])
        used = {name: w for name, w in asdict(weights).items() if w}
        super().__init__(
            generator,
            nn.ModuleDict({"a2b": discriminator}),
            optimizer_g,
            optimizer_d,
            weights=used | {term.name: term.weight for term in terms},
            extra_terms=terms,
            prompts=prompts,
            run=RunFacts.from_json({"task": "paired", **(card or {})}),
            **training,
        )
        self.perceptual = PerceptualDistance(load_features(lpips_features)) if "lpips" in used else None
        self.clip: ClipFeatures | None = None
        if "clip" in used:
            # The discriminator's network is reused where it is the same: 600 MB.
            own = [m for m in feature_networks(discriminator) if m.name == "clip"]
            clip = own[0] if own and clip_features is None else load_features("clip", clip_features)
            assert isinstance(clip, ClipFeatures)
            self.clip = clip
        self.real_label = real_label

    def on_fit_start(self) -> None:
        """Name the training prompts to the generator; embed all captions once, where the cache holds them.

        The text encoder then leaves memory.
        """
        super().on_fit_start()
        data: object = getattr(self.trainer, "datamodule", None)  # set by `fit`, not declared by Trainer
        given = data.captions if isinstance(data, CaptionedData) else {}
        prompt = self.generator.prompts["a2b"]
        captions = list(dict.fromkeys([prompt, *(c for split in given.values() for c in split)]))
        all_fit = len(captions) <= CACHE
        if all_fit:
            self.generator.encode_prompts(captions, self.device)
        self.generator.set_training_prompts(list(dict.fromkeys(given.get("train") or [prompt])))
        if all_fit:
            self.generator.encode_prompts.release()

    def training_step(self, batch: PairedBatch, batch_idx: int) -> Terms:
        """Train on one batch: generator, then discriminator."""
        with described_once():
            with self.frozen_discriminators():
                fake_b = self._translate(batch)
                terms = self._generator_terms(batch, fake_b)
                self.optimise("generator", terms, batch.names)
            if "disc" in self.weights:
                real, fake = (self.logits("a2b", image, batch.seed) for image in (batch.real_b, fake_b.detach()))
                disc = {"disc": discriminator_loss(real, fake, self.real_label)}
                self.optimise("discriminators", disc, batch.names)
                terms |= disc
        return self.finish_batch(terms, batch.real_a.shape[0])

    def _translate(self, batch: PairedBatch) -> Tensor:
        embedding = self.generator.encode_prompts(batch.captions, batch.real_a.device)
        wanted = self.generator.reads_noise or batch.strength is not None
        noise = self.noise_of(batch.real_a, batch.seed) if wanted else None
        translated: Tensor = self.generator(batch.real_a, embedding, "a2b", batch.strength, noise)
        return translated

    def _generator_terms(self, batch: PairedBatch, fake_b: Tensor) -> Terms:
        terms: Terms = {}
        r = torch.ones(len(fake_b), device=fake_b.device) if batch.strength is None else batch.strength
        if "l1" in self.weights:
            terms["l1"] = l1(fake_b, batch.real_b, r)
        if "l2" in self.weights:
            terms["l2"] = l2(fake_b, batch.real_b, r)
        if self.perceptual is not None:
            terms["lpips"] = (r * self.perceptual(fake_b, batch.real_b)).mean()
        if self.clip is not None:
            terms["clip"] = clip_similarity_loss(self.clip, fake_b, batch.captions).mean()
        if "gan" in self.weights:
            terms["gan"] = generator_loss(self.logits("a2b", fake_b, batch.seed))
        inputs = TermInputs(
            direction="a2b",
            source=batch.real_a,
            fake=fake_b,
            prompts=batch.captions,
            seed=batch.seed,
            target=batch.real_b,
            strength=batch.strength,
        )
        return terms | {term.name: term(inputs) for term in self.extra_terms}

    def translate_for_evaluation(self, batch: EvaluationBatch, with_extras: bool) -> Translation:
        """Translate with each image's caption, or the prompt of images without one."""
        captions = batch.captions or [self.generator.prompts["a2b"]] * len(batch.real)
        fake = self.generator(batch.real, self.generator.encode_prompts(captions, batch.real.device))
        return Translation(batch.direction, batch.real, fake, batch.index, batch.names, batch.truth, batch.captions)
