"""Bases of SDXL's kind, against diffusers' own pipeline."""

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

from networks import load_generator
from networks.checkpoints.adapter import save_adapter
from networks.checkpoints.diffusers import to_diffusers
from networks.one_step.bases import load_base
from networks.one_step.prompts import PromptEncoder

from .test_generator import build, wake

PROMPTS = ["driving in dense fog", "picture of a zebra"]


@pytest.fixture
def image():
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(3)) * 2 - 1


def pipeline(folder):
    base = load_base(str(folder))
    (tokenizer, encoder), (tokenizer_2, encoder_2) = base.load_text()
    scheduler = EulerAncestralDiscreteScheduler.from_pretrained(folder / "scheduler")
    return StableDiffusionXLPipeline(base.vae, encoder, encoder_2, tokenizer, tokenizer_2, base.unet, scheduler)


def test_prompts_and_sizes_are_the_pipelines(sdxl_base):
    base, pipe = load_base(str(sdxl_base)), pipeline(sdxl_base)
    context, _, pooled, _ = pipe.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=False)
    ids = pipe._get_add_time_ids((32, 48), (0, 0), (32, 48), torch.float32, pipe.text_encoder_2.config.projection_dim)
    kwargs = base.conditions.unet_inputs(PromptEncoder(base)(PROMPTS), 32, 48)
    torch.testing.assert_close(kwargs["encoder_hidden_states"], context)
    torch.testing.assert_close(kwargs["added_cond_kwargs"]["text_embeds"], pooled)
    torch.testing.assert_close(kwargs["added_cond_kwargs"]["time_ids"], ids.expand(2, -1))
    assert base.conditions.embedding_shape(context.shape[1], context.shape[2]) == PromptEncoder(base)(PROMPTS).shape[1:]


def test_one_step_at_the_start_is_the_bases_own(sdxl_base, image):
    """LoRA idle, no skips: encode, one prediction at the last timestep, decode."""
    base, pipe = load_base(str(sdxl_base)), pipeline(sdxl_base)
    generator = build(sdxl_base, skips=False)
    context, _, pooled, _ = pipe.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=False)
    ids = torch.tensor([[32, 48, 0, 0, 32, 48]] * 2).float()
    z = base.vae.encode(image).latent_dist.mode() * 0.13025
    added = {"text_embeds": pooled, "time_ids": ids}
    eps = base.unet(z, 999, encoder_hidden_states=context, added_cond_kwargs=added).sample
    x0 = (z - (1 - base.alpha_bar) ** 0.5 * eps) / base.alpha_bar**0.5
    plain = base.vae.decode(x0 / 0.13025).sample.clamp(-1, 1)
    fake = generator(image, generator.encode_prompts(PROMPTS))
    torch.testing.assert_close(fake, plain, atol=1e-5, rtol=1e-4)


def test_it_trains_is_saved_and_loaded_like_any_other(sdxl_base, image, tmp_path):
    generator = build(sdxl_base, checkpointing=True).train()
    generator.prompts = {"a2b": PROMPTS[0], "b2a": PROMPTS[1]}
    embeddings = {d: generator.encode_prompts([p]) for d, p in generator.prompts.items()}
    outputs = generator.translate_together({"a2b": image, "b2a": image.flip(0)}, embeddings)
    sum(output.square().mean() for output in outputs.values()).backward()
    for name, p in generator.named_parameters():
        assert (p.grad is not None) is p.requires_grad, name
    wake(generator)
    loaded = load_generator(save_adapter(generator, tmp_path))
    for direction in ("a2b", "b2a"):
        assert torch.equal(
            generator.eval().translate(image, direction=direction), loaded.translate(image, direction=direction)
        )
    strong, weak = (loaded.translate(image, strength=s, seed=1) for s in (0.9, 0.3))
    assert (strong - weak).abs().max() > 0.01


def test_its_lora_loads_into_a_plain_unet(sdxl_base, tmp_path):
    generator = wake(build(sdxl_base))
    lora, conv_in, _ = to_diffusers(generator)
    plain = UNet2DConditionModel.from_pretrained(sdxl_base, subfolder="unet")
    plain.load_lora_adapter({f"unet.{k}": t for k, t in lora.items()}, prefix="unet")
    plain.conv_in.load_state_dict(conv_in)
    latent = torch.randn(2, 4, 8, 8)
    kwargs = generator.conditions.unet_inputs(generator.encode_prompts(PROMPTS), 16, 16)
    torch.testing.assert_close(plain(latent, 999, **kwargs).sample, generator.unet(latent, 999, **kwargs).sample)
