"""How the picture reaches the UNet: the branches are what their papers say, and train as a whole."""

import pytest
import torch
from diffusers import ControlNetModel, T2IAdapter

from networks import OneStepGenerator, load_generator
from networks.checkpoints.adapter import save_adapter
from networks.checkpoints.diffusers import to_diffusers
from networks.checkpoints.released import to_released
from networks.one_step.bases import load_base
from networks.one_step.diffusion import noise_map
from networks.one_step.lora import trainable_names

BRANCHES = ("controlnet", "t2i_adapter")


def build(base, conditioning, **settings):
    torch.manual_seed(0)
    return OneStepGenerator(str(base), conditioning=conditioning, **{"rank_unet": 4, "rank_vae": 2, **settings})


def embed(generator, *texts):
    return generator.encode_prompts(list(texts or ["driving in dense fog"]))


@pytest.fixture
def image():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.mark.parametrize("skips", [True, False])
def test_a_fresh_controlnet_leaves_the_text_to_image_model_as_it_is(tiny_base, image, skips):
    base = load_base(str(tiny_base))
    generator = build(tiny_base, "controlnet", skips=skips, skip_init=0.0)
    noise = noise_map(0, generator.noise_shape(image))
    eps = base.unet(noise, base.timestep, embed(generator)).sample
    x0 = (noise - (1 - base.alpha_bar) ** 0.5 * eps) / base.alpha_bar**0.5
    drawn = base.vae.decode(x0 / base.vae.config.scaling_factor).sample.clamp(-1, 1)
    torch.testing.assert_close(generator(image, embed(generator)), drawn.expand(2, -1, -1, -1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("conditioning", BRANCHES)
def test_the_generator_computes_what_diffusers_does_with_that_branch(tiny_base, image, conditioning):
    """The same residuals, given by hand to the base's own UNet."""
    base = load_base(str(tiny_base))
    generator = build(tiny_base, conditioning, skips=False)
    torch.manual_seed(5)
    with torch.no_grad():
        for p in generator.branch.parameters():  # a fresh ControlNet ends in zeros
            p.add_(torch.randn_like(p) * 0.2)
    noise = noise_map(4, generator.noise_shape(image)).expand(2, -1, -1, -1)
    if conditioning == "controlnet":
        net = generator.branch.controlnet
        assert isinstance(net, ControlNetModel)
        down, mid = net(noise, base.timestep, embed(generator).expand(2, -1, -1), image, return_dict=False)
        added = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    else:
        net = generator.branch.adapter
        assert isinstance(net, T2IAdapter)
        added = {"down_intrablock_additional_residuals": net(image)}
    eps = base.unet(noise, base.timestep, embed(generator).expand(2, -1, -1), **added).sample
    x0 = (noise - (1 - base.alpha_bar) ** 0.5 * eps) / base.alpha_bar**0.5
    drawn = base.vae.decode(x0 / base.vae.config.scaling_factor).sample.clamp(-1, 1)
    made = generator(image, embed(generator), noise=noise)
    torch.testing.assert_close(made, drawn, atol=1e-4, rtol=1e-4)
    assert (made[0] - made[1]).abs().max() > 1e-3, "two pictures over one noise map must differ"


@pytest.mark.parametrize("conditioning", BRANCHES)
@pytest.mark.parametrize("skips", [True, False])
def test_a_branch_trains_in_full_beside_the_method_s_own_and_nothing_trains_unread(
    tiny_base, image, conditioning, skips
):
    generator = build(tiny_base, conditioning, skips=skips)
    direct = build(tiny_base, "direct", skips=skips)
    names, known = set(trainable_names(generator)), set(trainable_names(direct))
    branch = {f"branch.{name}" for name, _ in generator.branch.named_parameters()}
    assert branch == names - known
    gone = known - names
    assert gone and all(".vae.encoder." in name for name in gone)
    if not skips:
        assert not any(".vae.encoder." in name for name in names)
    optimizer = torch.optim.AdamW([p for p in generator.parameters() if p.requires_grad], lr=1e-3, weight_decay=0)
    before = {n: p.detach().clone() for n, p in generator.named_parameters() if p.requires_grad}
    for _ in range(4):  # zeros behind zeros wake one after the other
        made = generator.translate_together(
            {"a2b": image, "b2a": image.flip(0)}, {"a2b": embed(generator), "b2a": embed(generator, "a street")}
        )
        (made["a2b"] - image).square().mean().add((made["b2a"] + image).square().mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    still = [n for n, p in generator.named_parameters() if p.requires_grad and torch.equal(p, before[n])]
    assert not still


def test_the_branch_is_shared_by_both_directions(tiny_base, image):
    generator = build(tiny_base, "t2i_adapter", skips=False)
    both = generator.translate_together(
        {"a2b": image, "b2a": image}, {"a2b": embed(generator), "b2a": embed(generator)}
    )
    torch.testing.assert_close(both["a2b"], both["b2a"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("conditioning", BRANCHES)
def test_an_adapter_brings_its_branch_along(tiny_base, image, conditioning, tmp_path):
    generator = build(tiny_base, conditioning, directions=["a2b"])
    with torch.no_grad():
        for p in generator.branch.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    generator.prompts = {"a2b": "a street"}
    again = load_generator(save_adapter(generator, tmp_path / "adapter"))
    torch.testing.assert_close(again.translate(image, seed=3), generator.translate(image, seed=3))
    assert torch.equal(again.translate(image, seed=3), again.translate(image, seed=3))
    assert (again.translate(image, seed=4) - generator.translate(image, seed=3)).abs().max() > 1e-3
    # Without a word about noise: the map of seed 0, as validation takes it.
    torch.testing.assert_close(again(image, embed(again, "a street")), again.translate(image))


@pytest.mark.parametrize("conditioning", BRANCHES)
def test_any_size_and_checkpointing_change_nothing(tiny_base, conditioning):
    image = torch.rand(1, 3, 37, 51) * 2 - 1
    plain = build(tiny_base, conditioning, directions=["a2b"])
    made = plain(image, embed(plain))
    assert made.shape == image.shape
    lean = build(tiny_base, conditioning, directions=["a2b"], checkpointing=True).train()
    lean(image, embed(lean)).square().mean().backward()
    made.square().mean().backward()
    grads = dict(plain.named_parameters())
    for name, p in lean.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(p.grad, grads[name].grad, atol=1e-5, rtol=1e-3)


def test_what_a_branch_cannot_do_is_said(tiny_base, sdxl_base, image, tmp_path):
    generator = build(tiny_base, "controlnet", directions=["a2b"], input_range="[0, 1]")
    with pytest.raises(ValueError, match="conditioning=controlnet the UNet reads noise alone"):
        generator.translate(image, "a street", strength=0.5)
    with pytest.raises(ValueError, match="conditioning must be 'direct', 'controlnet' or 't2i_adapter', got 'lora'"):
        build(tiny_base, "lora")
    with pytest.raises(ValueError, match="No released format holds a branch"):
        to_released(generator)
    assert to_diffusers(generator)[2][-1] == "the controlnet branch"
    save_adapter(generator, tmp_path)
    with pytest.raises(ValueError, match="trained with conditioning=controlnet, the experiment asks for direct"):
        build(tiny_base, "direct", directions=["a2b"], init=str(tmp_path))


def test_sdxl_takes_a_controlnet_and_refuses_the_small_adapter(sdxl_base, image):
    generator = build(sdxl_base, "controlnet", directions=["a2b"])
    assert generator(image, embed(generator)).shape == image.shape
