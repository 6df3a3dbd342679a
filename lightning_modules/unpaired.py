"""CycleGAN-Turbo: unpaired translation with one generator for both directions (arXiv 2403.12036, Sec. 3.3)."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from datamodules.batches import EvaluationBatch, Translation, UnpairedBatch
from lightning_modules.base import Images, Terms, TranslationModule, feature_networks
from losses.adversarial import fake_half, generator_loss, real_half
from losses.extra import ExtraTerm, build_extra_terms
from losses.reconstruction import PerceptualDistance, l1
from losses.terms import LossTerm, Reading, TermInputs, check_weights, term_name
from networks import ImageTranslator
from networks.checkpoints.card import RunFacts
from networks.contract import Direction
from networks.features import described_once, load_features
from networks.one_step.lora import weights_formed_once

DIRECTIONS: tuple[Direction, Direction] = ("a2b", "b2a")
BACK: dict[Direction, Direction] = {"a2b": "b2a", "b2a": "a2b"}
Update = Literal["fused", "split", "sequential"]
# The translations that share a backward pass, by update: what a loss term reads must lie within one of these sets.
PASSES: dict[Update, list[frozenset[Reading]]] = {
    "fused": [frozenset(("fake", "reconstruction", "identity"))],
    "split": [frozenset(("fake", "reconstruction")), frozenset(("identity",))],
    "sequential": [frozenset(("fake", "reconstruction")), frozenset(("fake",)), frozenset(("identity",))],
}


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

    Raises:
        ValueError: a weight is negative or not finite.
    """

    gan: float = 0.5
    cycle: float = 1.0
    cycle_lpips: float = 10.0
    idt: float = 1.0
    idt_lpips: float = 1.0
    disc: float = 0.5

    def __post_init__(self) -> None:
        """Validate."""
        check_weights(asdict(self))


class CycleGANTurbo(TranslationModule):
    """Two domains, one fixed prompt each, cycle-consistency, identity and adversarial losses.

    Args:
        generator: holds both directions.
        discriminator: for domain B; a copy with separate heads, over the same frozen weights, is used for domain A.
            A `torch.nn.Module` that satisfies `networks.contract.Discriminator`.
        optimizer_g: builds the generator's optimiser.
        optimizer_d: builds the discriminators' optimiser.
        prompts: target prompt by direction, ``{"a2b": prompt of B, "b2a": prompt of A}``.
        weights: of the loss terms.
        lpips_features: network of the LPIPS terms: "vgg" (the paper), "lite1" (offline); not loaded at weight 0.
        update: "fused" takes one summed generator step per batch, in which cycle and adversarial terms share their
            translations and both directions share the UNet's passes; "split" takes the same step from four graphs, one
            after the other, for the memory of one; "sequential" is the released order of three generator steps (cycle,
            adversarial, identity) and two discriminator steps.
        clip_norm: gradient norm above which gradients are scaled down, generator and discriminators each.
        extra_terms: your own terms of the generator's loss, added for each direction; see `losses.extra.ExtraTerm`.
            With "split", a term that reads the reconstruction or the translation alone is added where those are made,
            one that reads the identity where that is.  With "sequential" it belongs to the cycle step where it reads
            the reconstruction, to the identity step where it reads the identity, else to the adversarial step.
        card: further entries of adapter.json, such as the labels of a trial in an ablation.
        **training: further arguments of `TranslationModule`.

    Raises:
        ValueError: the generator has only one direction, sequential steps should accumulate, or an extra term cannot be
            used.
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
        update: Update = "fused",
        clip_norm: float = 10.0,
        extra_terms: Sequence[ExtraTerm] = (),
        card: dict[str, Any] | None = None,
        **training: Any,
    ) -> None:
        if set(generator.directions) != {"a2b", "b2a"}:
            raise ValueError(f"CycleGAN-Turbo needs both directions, the generator has {generator.directions}.")
        if update == "sequential" and training.get("accumulate", 1) > 1:
            raise ValueError("update=sequential takes five steps per batch and cannot accumulate: set accumulate=1.")
        # The copy trains its own weights and shares the frozen ones.
        shared = {id(m): m for m in feature_networks(discriminator)}
        frozen = {id(p): p for p in discriminator.parameters() if not p.requires_grad}
        twin = copy.deepcopy(discriminator, {**shared, **frozen})
        families = asdict(weights)
        terms = build_extra_terms(extra_terms, families, PASSES[update])
        used = {name: w for name, w in families.items() if w} | {term.name: term.weight for term in terms}
        super().__init__(
            generator,
            nn.ModuleDict({"a2b": discriminator, "b2a": twin}),
            optimizer_g,
            optimizer_d,
            weights={term_name(family, d): w for family, w in used.items() for d in DIRECTIONS},
            extra_terms=terms,
            prompts=prompts,
            run=RunFacts.from_json({"task": "unpaired", **(card or {})}),
            clip_norm=clip_norm,
            **training,
        )
        self.update = update
        self.reads_reconstruction = [term for term in terms if "reconstruction" in term.reads]
        self.reads_identity = [term for term in terms if "identity" in term.reads]
        self.reads_fake = [t for t in terms if t not in self.reads_reconstruction and t not in self.reads_identity]
        self.families = frozenset(used)
        self.with_cycle = bool(self.families & {"cycle", "cycle_lpips"} or self.reads_reconstruction)
        self.with_identity = bool(self.families & {"idt", "idt_lpips"} or self.reads_identity)
        # Loaded only where a term needs it: a network that is not used must not be reported as used in training.
        lpips = self.families & {"cycle_lpips", "idt_lpips"}
        self.perceptual = PerceptualDistance(load_features(lpips_features)) if lpips else None

    def setup(self, stage: str) -> None:
        """Embed both prompts once; the text encoder leaves memory."""
        self.generator.encode_prompts(list(self.generator.prompts.values()))
        self.generator.encode_prompts.release()

    def training_step(self, batch: UnpairedBatch, batch_idx: int) -> Terms:
        """Train on one batch: generator, then discriminators."""
        updates = {"fused": self._fused, "split": self._split, "sequential": self._sequential}
        terms = updates[self.update](batch)
        return self.finish_batch(terms, batch.real_a.shape[0])

    def _fused(self, batch: UnpairedBatch) -> Terms:
        # a2b sees [real_a, real_b] (translation, identity), b2a [real_b, real_a]: four generator passes, one UNet call.
        sources, examples = _domains(batch)
        n = batch.real_a.shape[0]
        seen = {d: torch.cat([sources[d], examples[d]]) for d in DIRECTIONS} if self.with_identity else sources
        with described_once():
            with self.frozen_discriminators(), weights_formed_once():
                first = self._translate(seen, batch.seed)
                fakes = {d: first[d][:n] for d in DIRECTIONS}
                identities = {d: first[d][n:] for d in DIRECTIONS} if self.with_identity else {}
                terms = self._adversarial_terms(fakes, batch)
                reconstructions = self._round_trip(fakes, batch) if self.with_cycle else {}
                terms |= self._pixel_terms("cycle", reconstructions, sources)
                if not self.reads_reconstruction:
                    reconstructions = {}  # not needed any more: this frees their memory
                terms |= self._pixel_terms("idt", identities, examples)
                terms |= self._own_terms(self.extra_terms, batch, fakes, reconstructions, identities)
                if terms:
                    self.optimise("generator", terms, batch.names)
            return terms | self._step_discriminators(batch, fakes, together=True)

    def _split(self, batch: UnpairedBatch) -> Terms:
        terms: Terms = {}
        fakes: Images = {}
        sources, examples = _domains(batch)
        with self.frozen_discriminators():
            for d in DIRECTIONS:
                with weights_formed_once():
                    fake = self._translate({d: sources[d]}, batch.seed)
                    back = self._round_trip(fake, batch) if self.with_cycle else {}
                there = self._adversarial_terms(fake, batch)
                there |= self._pixel_terms("cycle", back, sources)
                there |= self._own_terms([*self.reads_reconstruction, *self.reads_fake], batch, fake, back, {})
                terms |= self._backward(there, batch)
                fakes[d] = fake[d].detach()
                if self.with_identity:
                    identity = self._translate({d: examples[d]}, batch.seed)
                    kept = self._pixel_terms("idt", identity, examples)
                    kept |= self._own_terms(self.reads_identity, batch, {d: fakes[d]}, {}, identity)
                    terms |= self._backward(kept, batch)
            self.step("generator")
        return terms | self._step_discriminators(batch, fakes, together=True)

    def _backward(self, terms: Terms, batch: UnpairedBatch) -> Terms:
        """Add the gradient of the terms; returns their values without graph."""
        if terms:
            self.add_gradient(terms, batch.names)
        return {name: term.detach() for name, term in terms.items()}

    def _sequential(self, batch: UnpairedBatch) -> Terms:
        terms: Terms = {}
        sources, examples = _domains(batch)

        def step(found: Terms) -> None:
            if found:
                self.optimise("generator", found, batch.names)
                terms.update(found)

        with self.frozen_discriminators():
            if self.with_cycle:
                with weights_formed_once():
                    fakes = self._translate(sources, batch.seed)
                    back = self._round_trip(fakes, batch)
                cycle = self._pixel_terms("cycle", back, sources)
                step(cycle | self._own_terms(self.reads_reconstruction, batch, fakes, back, {}))
            fakes = self._translate(sources, batch.seed)
            adversarial = self._adversarial_terms(fakes, batch)
            step(adversarial | self._own_terms(self.reads_fake, batch, fakes, {}, {}))
            if self.with_identity:
                same = self._translate(examples, batch.seed)
                kept = self._pixel_terms("idt", same, examples)
                step(kept | self._own_terms(self.reads_identity, batch, fakes, {}, same))
        return terms | self._step_discriminators(batch, fakes, together=False)

    def _translate(self, images: Images, seed: Tensor | None = None) -> Images:
        """Images ``(k B, 3, H, W)`` by direction; in training with the ``seed`` ``(B,)`` of each sample."""
        embeddings: dict[str, Tensor] = {
            d: self.generator.encode_prompts([self.generator.prompts[d]], image.device) for d, image in images.items()
        }
        noise = None
        if seed is not None and self.generator.reads_noise:
            rows = sum(len(image) for image in images.values())
            noise = self.noise_of(next(iter(images.values())), seed).repeat(rows // len(seed), 1, 1, 1)
        found = self.generator.translate_together(dict(images.items()), embeddings, noise=noise)
        return {d: found[d] for d in images}

    def _round_trip(self, fakes: Images, batch: UnpairedBatch) -> Images:
        """Translate the translations back to their source domain; by direction."""
        back = self._translate({BACK[d]: fakes[d] for d in reversed(fakes)}, batch.seed)
        return {d: back[BACK[d]] for d in fakes}

    def _pixel_terms(self, family: str, outputs: Images, wanted: Images) -> Terms:
        """L1 and LPIPS terms of a family, by direction; LPIPS looks at all outputs at once."""
        terms: Terms = {}
        if family in self.families:
            terms |= {term_name(family, d): l1(out, wanted[d]) for d, out in outputs.items()}
        lpips = f"{family}_lpips"
        if outputs and lpips in self.families and self.perceptual is not None:
            distance = self.perceptual(torch.cat([*outputs.values()]), *(wanted[d] for d in outputs))
            parts = distance.split([len(out) for out in outputs.values()])
            terms |= {term_name(lpips, d): part.mean() for d, part in zip(outputs, parts, strict=True)}
        return terms

    def _adversarial_terms(self, fakes: Images, batch: UnpairedBatch) -> Terms:
        if "gan" not in self.families:
            return {}
        return {term_name("gan", d): generator_loss(self.logits(d, fake, batch.seed)) for d, fake in fakes.items()}

    def _own_terms(
        self,
        terms: Sequence[LossTerm],
        batch: UnpairedBatch,
        fakes: Images,
        reconstructions: Images,
        identities: Images,
    ) -> Terms:
        """The user's terms for every direction of `fakes`; terms that do not read `fake` get it detached."""
        found: Terms = {}
        sources, examples = _domains(batch)
        for term in terms:
            for d, fake in fakes.items():
                inputs = TermInputs(
                    direction=d,
                    source=sources[d],
                    fake=fake if "fake" in term.reads else fake.detach(),
                    prompts=[self.generator.prompts[d]] * len(fake),
                    seed=batch.seed,
                    example=examples[d],
                    reconstruction=reconstructions[d] if "reconstruction" in term.reads else None,
                    identity=identities[d] if "identity" in term.reads else None,
                )
                found[term_name(term.name, d)] = term(inputs)
        return found

    def _step_discriminators(self, batch: UnpairedBatch, fakes: Images, together: bool) -> Terms:
        """Train the discriminators: one step on reals and fakes together, or one on fakes and then one on reals."""
        if "disc" not in self.families:
            return {}

        def terms_of(half: Callable[[list[Tensor]], Tensor], images: Images) -> Terms:
            return {term_name("disc", d): half(self.logits(d, image, batch.seed)) for d, image in images.items()}

        def step(terms: Terms) -> Terms:
            self.optimise("discriminators", terms, batch.names)
            return {name: term.detach() for name, term in terms.items()}

        _, examples = _domains(batch)
        fakes = {d: fake.detach() for d, fake in fakes.items()}
        if together:
            real, fake = terms_of(real_half, examples), terms_of(fake_half, fakes)
            return step({name: real[name] + fake[name] for name in real})
        fake = step(terms_of(fake_half, fakes))
        real = step(terms_of(real_half, examples))
        return {name: real[name] + fake[name] for name in real}

    def translate_for_evaluation(self, batch: EvaluationBatch, with_extras: bool) -> Translation:
        """Translate in the batch's direction; the grid's further images are the round trip and the identity."""
        there: Direction = "a2b" if batch.direction == "a2b" else "b2a"
        fake = self._translate({there: batch.real})[there]
        extra = {}
        if with_extras:
            back = BACK[there]
            extra = {"rec": self._translate({back: fake})[back], "idt": self._translate({back: batch.real})[back]}
        return Translation(there, batch.real, fake, batch.index, batch.names, batch.truth, extra=extra)


def _domains(batch: UnpairedBatch) -> tuple[Images, Images]:
    """Real images of the source domain and of the target domain, each by direction."""
    return {"a2b": batch.real_a, "b2a": batch.real_b}, {"a2b": batch.real_b, "b2a": batch.real_a}
