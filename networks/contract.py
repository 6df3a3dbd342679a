"""The contracts of generators (`ImageTranslator`) and discriminators (`Discriminator`), for your own ones too."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from networks.checkpoints.adapter import load_trained
from networks.checkpoints.card import Adapter
from networks.checkpoints.settings import Direction as Direction
from networks.checkpoints.settings import Settings
from networks.one_step.diffusion import noise_map


class Discriminator(Protocol):
    """Protocol of discriminators, which must also be a `torch.nn.Module`.

    Only parameters that require a gradient are trained and saved.  Training copies the module for the second direction;
    frozen feature networks (`FeatureNetwork`) are shared by the copies.
    """

    def __call__(self, image: Tensor, seeds: Tensor | None = None) -> list[Tensor]:
        """Score images; higher logits mean "real".

        Args:
            image: ``(B, 3, H, W)`` in [-1, 1].
            seeds: ``(B,)`` int64, one per image, for random draws such as augmentation: the same seed draws the same,
                for real and generated images alike; None draws nothing.

        Returns:
            Tensors of logits of any shape whose first axis is B; losses average over each and sum over the list.
        """


class Prompts(Protocol):
    """Prompt encoder: texts to embeddings; its networks can be freed."""

    def __call__(self, prompts: list[str], device: torch.device | str = "cpu") -> Tensor:
        """B texts => embeddings ``(B, L, D)`` float32."""

    def release(self) -> None:
        """Free the text encoder; embeddings of earlier texts stay cached."""


class ImageTranslator(nn.Module, ABC):
    """Base class of every generator: `OneStepGenerator`, `ResnetGenerator`, and your own.

    A subclass implements `directions`, `translate_together` and `noise_shape`, and its constructor sets `settings`,
    `prompts`, `encode_prompts`, `base_name`, `base_description`, `base_fingerprint` and, once it is built,
    `trained_names = trainable_names(self)`.  `networks/resnet.py` is a short example.

    Attributes:
        settings: constructor arguments that rebuild it, written to adapter.json; a dataclass derived from `Settings`.
        prompts: target prompt by direction.
        encode_prompts: embeds prompts; kept out of the module tree.
        base_name: what the weights start from, as `load_base` takes it.
        base_description: one line for logs, cards and metrics.json.
        base_fingerprint: short hash of the frozen part; a checkpoint fits only the same one.
        base_random_init: whether the base has its architecture alone, at random weights.
        trained_names: names of the tensors that training changes and an adapter holds.
        merged: whether LoRA was folded into the base, all of it that can be.
        compiled_blocks: how many blocks training runs through `torch.compile`.
    """

    settings: Settings
    prompts: dict[str, str]
    encode_prompts: Prompts
    base_name: str
    base_description: str
    base_fingerprint: str
    base_random_init = False
    trained_names: list[str]
    merged = False
    compiled_blocks = 0

    @property
    @abstractmethod
    def directions(self) -> list[str]:
        """The directions that this generator translates in."""

    @property
    def reads_noise(self) -> bool:
        """Whether every translation needs a noise map, not only those of a strength below 1."""
        return False

    @abstractmethod
    def translate_together(
        self,
        images: Mapping[str, Tensor],
        embeddings: Mapping[str, Tensor],
        strength: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Translate in several directions at once.

        Args:
            images: by direction, see `forward`.
            embeddings: by direction, see `forward`.
            strength: for the images of all directions, in order; see `forward`.
            noise: likewise.
        """

    def skip_parameters(self) -> list[nn.Parameter]:
        """Trained parameters of skip connections, which may have a learning rate of their own; none by default."""
        return []

    def set_training_prompts(self, prompts: list[str]) -> None:
        """Compute constants from the training prompts; called once before training.  Does nothing by default.

        Args:
            prompts: all different ones of the training split, at least one.
        """

    @abstractmethod
    def noise_shape(self, image: Tensor) -> tuple[int, ...]:
        """Shape of the noise map of one image."""

    def forward(
        self,
        image: Tensor,
        embedding: Tensor,
        direction: str = "a2b",
        strength: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Translate a batch in one direction.

        Args:
            image: ``(B, 3, H, W)`` in [-1, 1], any H and W.
            embedding: prompt embeddings, ``(B, L, D)`` or ``(1, L, D)``.
            direction: "a2b" or "b2a".
            strength: ``(B,)`` in [0, 1]; None is the deterministic model (``r = 1``).
            noise: ``(B, C, h, w)`` or ``(1, C, h, w)`` for the padded size / 8; needed with strength, and read by a
                generator that `reads_noise`.

        Returns:
            ``(B, 3, H, W)`` float32 in [-1, 1].
        """
        return self.translate_together({direction: image}, {direction: embedding}, strength, noise)[direction]

    @torch.no_grad()
    def translate(
        self,
        image: Tensor,
        prompt: str | Sequence[str] | None = None,
        direction: str = "a2b",
        strength: float = 1.0,
        seed: int = 0,
    ) -> Tensor:
        """Translate images with every argument checked; `inference.Translator` takes images of any kind.

        Args:
            image: ``(B, 3, H, W)`` in [-1, 1], any size.
            prompt: one text, or one per image; None takes the prompt of this direction from the adapter.
            direction: "a2b" or "b2a".
            strength: 1 is deterministic; below, ``seed`` draws the noise map that is blended in.
            seed: of the noise map; every image of the batch gets the same map, whatever the batch size.

        Returns:
            ``(B, 3, H, W)`` float32 in [-1, 1], on the image's device.

        Raises:
            ValueError: strength or image is out of range or of another shape, the direction is unknown, or prompts are
                missing or too many.
        """
        if prompt is None:
            if direction not in self.prompts:
                raise ValueError(
                    f"No prompt for direction {direction!r}: the adapter holds none, so give one (prompt=)."
                )
            prompt = self.prompts[direction]
        if not 0 <= strength <= 1:
            raise ValueError(f"strength must lie in [0, 1], got {strength}.")
        if image.dim() != 4 or image.shape[1] != 3 or not image.is_floating_point():
            raise ValueError(f"translate takes float images (B, 3, H, W), got {image.dtype} {tuple(image.shape)}.")
        if image.numel() and image.abs().max() > 1.001:
            low, high = (float(value) for value in image.aminmax())
            raise ValueError(f"translate takes images in [-1, 1], these reach from {low:.3g} to {high:.3g}.")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if len(prompts) not in (1, len(image)):
            raise ValueError(f"{len(prompts)} prompts for {len(image)} images: give one, or one per image.")
        embedding = self.encode_prompts(prompts, image.device)
        r = None if strength == 1 else torch.full((image.shape[0],), strength, device=image.device)
        noise = None if r is None and not self.reads_noise else noise_map(seed, self.noise_shape(image))
        return self(image, embedding, direction, r, noise)

    def merge(self, dtype: torch.dtype = torch.float32) -> "ImageTranslator":
        """Fuse what can be fused for faster inference; in place.

        Args:
            dtype: to which weights may be cast that autocast would cast at every call.
        """
        return self

    def check_unmerged(self) -> None:
        """Refuse to save or export after `merge`: the trained tensors are gone.

        Raises:
            ValueError: LoRA is merged.
        """
        if self.merged:
            raise ValueError(
                "This generator's LoRA is merged into its base, so it can no longer be saved or exported: load it "
                "again and leave it unmerged."
            )

    def load_adapter(self, adapter: Adapter) -> None:
        """Load an adapter's tensors and prompts.

        Raises:
            ValueError: it was trained on another base, or its tensors do not fit.
        """
        trained_on = adapter.card.base_fingerprint  # None in released files
        if trained_on not in (None, self.base_fingerprint):
            raise ValueError(
                f"{adapter.path} was trained on the base {adapter.card.base_description} ({trained_on}), this is "
                f"{self.base_description} ({self.base_fingerprint}). Give the base that it was trained on (base=)."
            )
        load_trained(self, self.adapter_tensors(adapter), adapter.path)
        self.prompts = dict(adapter.card.prompts)

    def adapter_tensors(self, adapter: Adapter) -> dict[str, Tensor]:
        """The adapter's tensors under this generator's names."""
        return dict(adapter.tensors)

    def check_direction(self, images: Mapping[str, Tensor]) -> None:
        """Refuse directions that this generator was not built for.

        Raises:
            ValueError: names the first of them and those that there are.
        """
        unknown = [d for d in images if d not in self.directions]
        if unknown:
            raise ValueError(
                f"Unknown direction {unknown[0]!r}: this generator translates {' and '.join(self.directions)}."
            )
