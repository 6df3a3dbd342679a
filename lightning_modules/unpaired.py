"""CycleGAN-Turbo: unpaired translation with one generator for both directions (arXiv 2403.12036, Sec. 3.2)."""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from datamodules.batches import EvaluationBatch, Translation, UnpairedBatch
from lightning_modules.base import TranslationModule
from losses.adversarial import fake_half, generator_loss, real_half
from losses.reconstruction import PerceptualDistance, l1
from losses.terms import weighted_total
from networks import ImageTranslator
from networks.checkpoints.card import RunFacts
from networks.features import FeatureNetwork, load_features

Pictures = dict[str, Tensor]


@dataclass
class UnpairedWeights:
    """Weights of the loss terms, for both directions alike; a term of weight 0 is not computed.

    Attributes:
        gan: adversarial, generator's side.
        cycle: L1 of the round trip.
        cycle_lpips: LPIPS of the round trip.
        idt: L1 of translating an image of the target domain.
        idt_lpips: LPIPS of the same.
        disc: adversarial, discriminators' side (released: half of the adversarial 0.5, each of real and fake halved).
    """

    gan: float = 0.5
    cycle: float = 1.0
    cycle_lpips: float = 10.0
    idt: float = 1.0
    idt_lpips: float = 1.0
    disc: float = 0.5


class CycleGANTurbo(TranslationModule):
    """Two domains, one fixed prompt each, cycle-consistency, identity and adversarial losses.

    Args:
        generator: holds both directions.
        discriminator: judges domain B; a twin with heads of its own, over the same frozen features, judges domain A.
        optimizer_g: builds the generator's optimiser.
        optimizer_d: builds the discriminators' optimiser.
        prompts: target prompt by direction, ``{"a2b": prompt of B, "b2a": prompt of A}``.
        weights: of the loss terms.
        lpips_features: network of the LPIPS terms: "vgg" (the paper), "lite1" (offline); not loaded at weight 0.
        update: "fused" takes one summed generator step per batch, in which cycle and adversarial terms share their
            translations and both directions share the UNet's passes; "split" takes the same step from four graphs, one
            after the other, for the memory of one; "sequential" is the released order of three generator steps and two
            discriminator steps.
        warmup_images: see `TranslationModule`.
        clip_norm: see `TranslationModule`.
        accumulate: see `TranslationModule`; 1 with "sequential".
        max_images: see `TranslationModule`.
        skip_lr_factor: see `TranslationModule`.
        cooldown: see `TranslationModule`.
        card: further entries of adapter.json, such as the labels of a trial in an ablation.

    Raises:
        ValueError: the generator has only one direction, or sequential steps should accumulate.
    """

    def __init__(
        self,
        generator: ImageTranslator,
        discriminator: nn.Module,
        optimizer_g: OptimizerCallable,
        optimizer_d: OptimizerCallable,
        prompts: dict[str, str],
        weights: UnpairedWeights,
        lpips_features: str = "vgg",
        update: Literal["fused", "split", "sequential"] = "fused",
        warmup_images: int = 0,
        clip_norm: float = 10.0,
        accumulate: int = 1,
        max_images: int | None = None,
        skip_lr_factor: float = 1.0,
        cooldown: float = 0.0,
        card: dict[str, Any] | None = None,
    ) -> None:
        if set(generator.directions) != {"a2b", "b2a"}:
            raise ValueError(f"CycleGAN-Turbo needs both directions, the generator has {generator.directions}.")
        if update == "sequential" and accumulate > 1:
            raise ValueError("update=sequential takes five steps per batch and cannot accumulate: set accumulate=1.")
        shared = {id(m): m for m in discriminator.modules() if isinstance(m, FeatureNetwork)}
        discriminators = nn.ModuleDict({"a2b": discriminator, "b2a": copy.deepcopy(discriminator, shared)})
        super().__init__(
            generator,
            discriminators,
            optimizer_g,
            optimizer_d,
            warmup_images,
            clip_norm,
            accumulate,
            max_images,
            skip_lr_factor,
            cooldown,
            prompts,
            RunFacts.from_json({"task": "unpaired", **(card or {})}),
        )
        self.update = update
        self.weights = {f"{term}_{d}": w for term, w in asdict(weights).items() for d in ("a2b", "b2a") if w}
        # Only where a term needs it: what is not looked at in training must not be listed as looked at.
        self.perceptual: Any = PerceptualDistance(load_features(lpips_features)) if self._wants_lpips() else None

    def setup(self, stage: str) -> None:
        """Embed both prompts once; the text encoder leaves memory."""
        self.generator.encode_prompts(list(self.generator.prompts.values()))
        self.generator.encode_prompts.release()

    def training_step(self, batch: UnpairedBatch, batch_idx: int) -> dict[str, Tensor]:
        """One batch: generator, then discriminators."""
        updates = {"fused": self._fused, "split": self._split, "sequential": self._sequential}
        terms = updates[self.update](batch)
        self.count(batch.real_a.shape[0])
        self.log_terms(terms)
        return {name: term.detach() for name, term in terms.items()}  # for the progress display

    def _fused(self, batch: UnpairedBatch) -> Pictures:
        # a2b sees [real_a, real_b] (translate, keep), b2a sees [real_b, real_a]: four generator passes, one UNet call.
        identity = self._wants("idt")
        a2b = torch.cat([batch.real_a, batch.real_b]) if identity else batch.real_a
        b2a = torch.cat([batch.real_b, batch.real_a]) if identity else batch.real_b
        with self.frozen_discriminators():
            first = self._translate({"a2b": a2b, "b2a": b2a}, batch.seed)
            n = batch.real_a.shape[0]
            fake_b, fake_a = first["a2b"][:n], first["b2a"][:n]
            terms = self._adversarial_terms(batch, fake_b, fake_a) if self._wants("gan") else {}
            if self._wants("cycle"):
                terms |= self._cycle_terms(batch, fake_b, fake_a)
            if identity:
                kept = {"a2b": (first["a2b"][n:], batch.real_b), "b2a": (first["b2a"][n:], batch.real_a)}
                terms |= self._pixel_terms("idt", kept)
            self._step_generator(terms, batch)
        return terms | self._step_discriminators(batch, fake_b.detach(), fake_a.detach(), together=True)

    def _split(self, batch: UnpairedBatch) -> Pictures:
        terms: Pictures = {}
        fakes: Pictures = {}
        reals = {"a2b": batch.real_a, "b2a": batch.real_b}
        with self.frozen_discriminators():
            for there, back in (("a2b", "b2a"), ("b2a", "a2b")):
                fake = self._translate({there: reals[there]}, batch.seed)[there]
                fakes[there] = fake.detach()
                round_trip: Pictures = {}
                if self._wants("gan"):
                    round_trip[f"gan_{there}"] = generator_loss(self.discriminators[there](fake, batch.seed))
                if self._wants("cycle"):
                    rec = self._translate({back: fake}, batch.seed)[back]
                    round_trip |= self._pixel_terms("cycle", {there: (rec, reals[there])})
                terms |= self._backward_of(round_trip, batch)
                if self._wants("idt"):
                    same = self._translate({there: reals[back]}, batch.seed)[there]
                    terms |= self._backward_of(self._pixel_terms("idt", {there: (same, reals[back])}), batch)
            self.step(0)
        return terms | self._step_discriminators(batch, fakes["a2b"], fakes["b2a"], together=True)

    def _backward_of(self, terms: Pictures, batch: UnpairedBatch) -> Pictures:
        """Add the terms' gradient and let their graph go."""
        if not terms:
            return {}
        total = weighted_total(terms, {name: self.weights[name] for name in terms})
        self.check_finite(total, terms, batch.names)
        self.backward_part(total)
        return {name: term.detach() for name, term in terms.items()}

    def _sequential(self, batch: UnpairedBatch) -> Pictures:
        terms: Pictures = {}
        with self.frozen_discriminators():
            if self._wants("cycle"):
                fakes = self._translate({"a2b": batch.real_a, "b2a": batch.real_b}, batch.seed)
                cycle = self._cycle_terms(batch, fakes["a2b"], fakes["b2a"])
                self._step_generator(cycle, batch)
                terms |= cycle
            fakes = self._translate({"a2b": batch.real_a, "b2a": batch.real_b}, batch.seed)
            if self._wants("gan"):
                adversarial = self._adversarial_terms(batch, fakes["a2b"], fakes["b2a"])
                self._step_generator(adversarial, batch)
                terms |= adversarial
            if self._wants("idt"):
                idt = self._translate({"a2b": batch.real_b, "b2a": batch.real_a}, batch.seed)
                kept = {"a2b": (idt["a2b"], batch.real_b), "b2a": (idt["b2a"], batch.real_a)}
                identity = self._pixel_terms("idt", kept)
                self._step_generator(identity, batch)
                terms |= identity
        return terms | self._step_discriminators(batch, fakes["a2b"].detach(), fakes["b2a"].detach(), together=False)

    def _wants(self, family: str) -> bool:
        return any(name.removesuffix("_a2b") in (family, f"{family}_lpips") for name in self.weights)

    def _wants_lpips(self) -> bool:
        return any("lpips" in name for name in self.weights)

    def _translate(self, images: Pictures, seed: Tensor | None = None) -> Pictures:
        """Images ``(k B, 3, H, W)`` by direction; in training with the ``seed`` ``(B,)`` of each sample."""
        embeddings = {d: self.generator.encode_prompts([self.generator.prompts[d]], self.device) for d in images}
        noise = None
        if seed is not None and self.generator.reads_noise:
            rows = sum(len(image) for image in images.values())
            noise = self.noise_of(next(iter(images.values())), seed).repeat(rows // len(seed), 1, 1, 1)
        return self.generator.translate_together(images, embeddings, noise=noise)

    def _cycle_terms(self, batch: UnpairedBatch, fake_b: Tensor, fake_a: Tensor) -> Pictures:
        rec = self._translate({"a2b": fake_a, "b2a": fake_b}, batch.seed)
        return self._pixel_terms("cycle", {"a2b": (rec["b2a"], batch.real_a), "b2a": (rec["a2b"], batch.real_b)})

    def _pixel_terms(self, family: str, pairs: dict[str, tuple[Tensor, Tensor]]) -> Pictures:
        """Terms of a family from (output, what it should be) by direction; LPIPS looks at all of them at once."""
        terms = {f"{family}_{d}": l1(out, want) for d, (out, want) in pairs.items()}
        if f"{family}_lpips_a2b" in self.weights:
            outs, wants = zip(*pairs.values(), strict=True)
            distance = self.perceptual(torch.cat(outs), torch.cat(wants))
            parts = distance.split([len(out) for out in outs])
            terms |= {f"{family}_lpips_{d}": part.mean() for d, part in zip(pairs, parts, strict=True)}
        return {name: term for name, term in terms.items() if name in self.weights}

    def _adversarial_terms(self, batch: UnpairedBatch, fake_b: Tensor, fake_a: Tensor) -> Pictures:
        return {
            "gan_a2b": generator_loss(self.discriminators["a2b"](fake_b, batch.seed)),
            "gan_b2a": generator_loss(self.discriminators["b2a"](fake_a, batch.seed)),
        }

    def _step_generator(self, terms: Pictures, batch: UnpairedBatch) -> None:
        total = weighted_total(terms, {name: self.weights[name] for name in terms})
        self.check_finite(total, terms, batch.names)
        self.optimise(0, total)

    def _step_discriminators(self, batch: UnpairedBatch, fake_b: Tensor, fake_a: Tensor, together: bool) -> Pictures:
        """One step on reals and fakes together, or one on the fakes and then one on the reals."""
        if not self._wants("disc"):
            return {}

        def judged(half: Callable[[list[Tensor]], Tensor], b: Tensor, a: Tensor) -> Pictures:
            pictures = {"a2b": b, "b2a": a}
            return {f"disc_{d}": half(self.discriminators[d](x, batch.seed)) for d, x in pictures.items()}

        def step(terms: Pictures) -> Pictures:
            total = weighted_total(terms, {name: self.weights[name] for name in terms})
            self.check_finite(total, terms, batch.names)
            self.optimise(1, total)
            return {name: term.detach() for name, term in terms.items()}

        if together:
            real, fake = judged(real_half, batch.real_b, batch.real_a), judged(fake_half, fake_b, fake_a)
            return step({name: real[name] + fake[name] for name in real})
        fake = step(judged(fake_half, fake_b, fake_a))
        real = step(judged(real_half, batch.real_b, batch.real_a))
        return {name: real[name] + fake[name] for name in real}

    # Lightning expects tensors or dicts of a step; callbacks here read one typed object.
    def validation_step(  # type: ignore[override]
        self, batch: EvaluationBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> Translation:
        """Translate in the batch's direction; its first batch also goes round the cycle and through the identity."""
        back = "b2a" if batch.direction == "a2b" else "a2b"
        # Float32 whatever the training precision: the picture must be the exported adapter's.
        with torch.autocast(self.device.type, enabled=False):
            fake = self._translate({batch.direction: batch.real})[batch.direction]
            extra = {}
            if batch_idx == 0:
                extra = {"rec": self._translate({back: fake})[back], "idt": self._translate({back: batch.real})[back]}
        return Translation(batch.direction, batch.real, fake, batch.index, batch.names, batch.truth, extra=extra)

    test_step = validation_step  # type: ignore[assignment]
