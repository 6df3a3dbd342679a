import re

import pytest
import torch
from torch import nn

from networks import OneStepGenerator, load_generator
from networks.checkpoints.adapter import load_trained, read_adapter, save_adapter, trained_state
from networks.checkpoints.card import Adapter, AdapterCard, RunFacts
from networks.checkpoints.diffusers import to_diffusers
from networks.checkpoints.released import to_released
from networks.one_step import lora as adapters
from networks.one_step.bases import load_base
from networks.one_step.lora import is_gated, lora_layers, trainable_names

GATE_PROMPTS = ["driving in dense fog", "driving on a clear day", "a street at night"]


def build(base, **settings):
    torch.manual_seed(0)
    return OneStepGenerator(str(base), **{"rank_unet": 4, "rank_vae": 2, **settings})


def wake(generator, scale=0.05):
    """LoRA starts as a no-op: give it something to say."""
    torch.manual_seed(1)
    with torch.no_grad():
        for layer in lora_layers(generator):
            layer.lora_B["default"].weight.normal_(std=scale)
        for name, p in generator.named_parameters():
            if "skip_convs" in name or "conv_in.trained" in name:
                p.add_(torch.randn_like(p) * scale)
    return generator


def open_gates(generator):
    """Let gates that there are differ much between prompts; they are 1 until prompts are standardised."""
    generator.set_training_prompts(GATE_PROMPTS)
    torch.manual_seed(2)
    with torch.no_grad():
        for layer in filter(is_gated, lora_layers(generator)):
            layer.gate.weight.normal_(std=2)
    return generator


@pytest.fixture
def image():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1


def embed(generator, n=1):
    return generator.encode_prompts(["driving in dense fog"]).expand(n, -1, -1)


def test_lora_and_conv_in_are_a_no_op_at_start(tiny_base, image):
    base = load_base(str(tiny_base))
    generator = build(tiny_base, skips=False)
    z = base.vae.encode(image).latent_dist.mode() * base.vae.config.scaling_factor
    eps = base.unet(z, base.timestep, embed(generator, 2)).sample
    x0 = (z - (1 - base.alpha_bar) ** 0.5 * eps) / base.alpha_bar**0.5
    plain = base.vae.decode(x0 / base.vae.config.scaling_factor).sample.clamp(-1, 1)
    torch.testing.assert_close(generator(image, embed(generator)), plain, atol=1e-5, rtol=1e-4)


def test_zero_convs_hardly_change_the_output_at_start_and_random_ones_do(tiny_base, image):
    without = build(tiny_base, skips=False)(image, embed(build(tiny_base)))
    zero = build(tiny_base)
    gaussian = build(tiny_base, skip_init="gaussian")
    assert (zero(image, embed(zero)) - without).abs().max() < 1e-3
    assert (gaussian(image, embed(gaussian)) - without).abs().max() > 1e-2


def test_trainable_names_are_exactly_the_methods(tiny_base):
    generator = build(tiny_base)
    names = trainable_names(generator)
    skips = [f"autoencoders.{d}.skip_convs.{k}.weight" for d in ("a2b", "b2a") for k in range(4)]
    conv_in = ["unet.conv_in.trained.bias", "unet.conv_in.trained.weight"]
    lora = [n for n in names if ".lora_A.default." in n or ".lora_B.default." in n]
    assert sorted([*skips, *conv_in, *lora]) == names
    # Every convolution and projection of UNet and VAE, and nothing besides, carries a LoRA.
    wrapped = {n.partition(".lora_")[0] for n in lora}
    expected = set()
    for part, module in [("unet", generator.unet), ("autoencoders.a2b.vae", generator.autoencoders["a2b"].vae)]:
        for name, layer in module.named_modules():
            inner = name.removesuffix(".base_layer")
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and ".lora_" not in name:
                full = f"{part}.{inner}"
                frozen = r"time_emb|conv_in\.(trained|pretrained)" if part == "unet" else r"quant_conv"
                if not re.search(frozen, full):
                    expected.add(full)
    assert {w for w in wrapped if not w.startswith("autoencoders.b2a")} == expected
    assert {w.replace("b2a", "a2b") for w in wrapped if ".b2a." in w} == {w for w in wrapped if ".a2b." in w}


def test_two_directions_share_every_frozen_tensor_and_no_trained_one(tiny_base):
    generator = build(tiny_base)
    a2b = dict(generator.autoencoders["a2b"].named_parameters())
    b2a = dict(generator.autoencoders["b2a"].named_parameters())
    for name, p in a2b.items():
        assert (p.data_ptr() == b2a[name].data_ptr()) is (not p.requires_grad), name


def test_directions_do_not_leak_into_each_other(tiny_base, image):
    generator = wake(build(tiny_base))
    e = embed(generator)
    alone = {d: generator(image, e, d) for d in ("a2b", "b2a")}
    assert (alone["a2b"] - alone["b2a"]).abs().max() > 1e-3
    together = generator.translate_together({"a2b": image, "b2a": image.flip(0)}, {"a2b": e, "b2a": e})
    torch.testing.assert_close(together["a2b"], alone["a2b"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together["b2a"], alone["b2a"].flip(0), atol=1e-5, rtol=1e-4)


def test_small_layers_form_their_weight_and_give_the_same_output_and_gradients(tiny_base, image, monkeypatch):
    outputs, grads = [], []
    for limit in (adapters.SMALL_LAYER, 0):
        monkeypatch.setattr(adapters, "SMALL_LAYER", limit)
        generator = wake(build(tiny_base))
        small = [vars(layer)["forward"].__func__ is adapters._forward_small for layer in lora_layers(generator)]
        assert all(small) if limit else not any(small)
        output = generator(image, embed(generator))
        output.square().mean().backward()
        outputs.append(output)
        grads.append({n: p.grad for n, p in generator.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-4)
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        assert (grad - grads[1][name]).norm() <= 1e-3 * grad.norm(), name


@pytest.mark.parametrize("checkpointing", [False, True])
def test_two_passes_that_share_a_backward_can_share_the_formed_weights(tiny_base, image, monkeypatch, checkpointing):
    formed = []
    form = adapters._sum
    monkeypatch.setattr(adapters, "_sum", lambda layer, *gates: formed.append(layer) or form(layer, *gates))
    counts, grads = [], []
    for once in (False, True):
        formed.clear()
        generator = wake(build(tiny_base, checkpointing=checkpointing))
        with adapters.weights_formed_once(once):
            there = generator(image, embed(generator))
            back = generator(there, embed(generator), "b2a")
            counts.append(len(formed))
            (back.square().mean() + generator(back, embed(generator)).mean()).backward()
        grads.append({n: p.grad for n, p in generator.named_parameters() if p.grad is not None})
    if not checkpointing:  # which computes in backward what it computed before, so nothing may be known to it
        assert counts[1] == len(set(formed)) < counts[0]
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        assert (grad - grads[1][name]).norm() <= 1e-4 * grad.norm(), name


def test_autocast_and_strength_run_lora_beside_the_weight(tiny_base, image):
    """In bfloat16 a young LoRA would round away in W + BA, and a strength differs from image to image."""
    generator, beside = build(tiny_base), []
    for layer in lora_layers(generator):
        layer.lora_A["default"].register_forward_hook(lambda *_: beside.append(1))
    layers, e = len(lora_layers(generator.unet)) + len(lora_layers(generator.autoencoders["a2b"])), embed(generator)
    generator(image, e)
    assert len(beside) == 0
    with torch.autocast("cpu", torch.bfloat16):
        generator(image, e)
    assert len(beside) == layers
    generator(image, e, "a2b", torch.tensor([0.2, 0.9]), torch.ones(1, 4, 4, 4))
    assert len(beside) == 2 * layers


def test_sums_of_skips_and_what_leaves_are_float32_under_autocast(tiny_base, image):
    """A zero-conv's 1e-5 beside an activation of 1 is below bfloat16's step."""
    generator, seen = build(tiny_base), []
    for block in generator.autoencoders["a2b"].vae.decoder.up_blocks:
        block.register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        output = generator(image, embed(generator))
        latent, _ = generator.autoencoders["a2b"].encode(image)
    assert seen == [torch.float32] * 4
    assert latent.dtype == output.dtype == torch.float32


@pytest.mark.parametrize("strength", [None, [0.3, 0.8]])
def test_checkpointing_gives_the_same_gradients_with_both_directions_before_backward(tiny_base, image, strength):
    grads = []
    for checkpointing in (False, True):
        generator = wake(build(tiny_base, checkpointing=checkpointing)).train()
        r = None if strength is None else torch.tensor(strength)
        noise = None if strength is None else torch.ones(1, 4, 4, 4)
        e = embed(generator)
        a = generator(image, e, "a2b", r, noise)
        b = generator(image, e, "b2a", r, noise)
        (a.square().mean() + b.mean()).backward()
        grads.append({n: p.grad for n, p in generator.named_parameters() if p.requires_grad})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, msg=name)


def test_strength_scales_each_image_by_itself(tiny_base, image):
    generator = wake(build(tiny_base))
    e, noise = embed(generator), torch.randn(1, 4, 4, 4)
    both = generator(image, e, "a2b", torch.tensor([0.2, 0.9]), noise)
    for k, r in enumerate((0.2, 0.9)):
        alone = generator(image[k : k + 1], e, "a2b", torch.tensor([r]), noise)
        torch.testing.assert_close(both[k : k + 1], alone, atol=1e-5, rtol=1e-4)
    full = generator(image, e, "a2b", torch.ones(2), noise)
    torch.testing.assert_close(full, generator(image, e), atol=1e-5, rtol=1e-4)


def test_strength_zero_is_the_plain_text_to_image_model(tiny_base, image):
    base = load_base(str(tiny_base))
    generator = wake(build(tiny_base))
    noise = torch.randn(1, 4, 4, 4)
    out = generator(image, embed(generator), "a2b", torch.zeros(2), noise)
    eps = base.unet(noise, base.timestep, embed(generator)).sample
    x0 = (noise - (1 - base.alpha_bar) ** 0.5 * eps) / base.alpha_bar**0.5
    plain = base.vae.decode(x0 / base.vae.config.scaling_factor).sample.clamp(-1, 1)
    torch.testing.assert_close(out, plain.expand_as(out), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (37, 61), (64, 32)])
def test_any_size_comes_back(tiny_base, size):
    generator = build(tiny_base)
    assert generator.translate(torch.zeros(1, 3, *size), "a day").shape == (1, 3, *size)


def test_multiples_of_the_factor_are_never_padded_and_others_by_reflection(tiny_base):
    generator = build(tiny_base)
    x = torch.rand(1, 3, 24, 16)
    assert generator._feed(x) is x
    fed = generator._feed(x[..., :21, :])
    assert torch.equal(fed[..., 21:24, :], x[..., [19, 18, 17], :])


def test_input_range_is_applied_inside(tiny_base, image):
    plain, unit = build(tiny_base), build(tiny_base, input_range="[0, 1]")
    e = embed(plain)
    torch.testing.assert_close(unit(image, e), plain((image + 1) / 2, e))


def test_two_translations_are_bit_equal_and_leave_the_global_generator_alone(tiny_base, image):
    generator = wake(build(tiny_base))
    state = torch.get_rng_state()
    first = generator.translate(image, "a day", strength=0.5, seed=4)
    assert torch.equal(first, generator.translate(image, "a day", strength=0.5, seed=4))
    assert not torch.equal(first, generator.translate(image, "a day", strength=0.5, seed=5))
    assert torch.equal(state, torch.get_rng_state())


def test_merge_keeps_the_output_and_the_other_direction(tiny_base, image):
    generator = wake(build(tiny_base))
    e = embed(generator)
    before = {d: generator(image, e, d) for d in ("a2b", "b2a")}
    generator.merge()
    assert not lora_layers(generator)
    for d, want in before.items():
        torch.testing.assert_close(generator(image, e, d), want, atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="merged"):
        generator.translate(image, "a day", strength=0.5)


def test_adapter_round_trip(tiny_base, image, tmp_path):
    generator = wake(build(tiny_base))
    generator.prompts = {"a2b": "driving in dense fog", "b2a": "driving on a clear day"}
    save_adapter(generator, tmp_path / "adapter", RunFacts(task="unpaired"))
    before = torch.get_rng_state()
    again = load_generator(str(tmp_path))
    assert torch.equal(torch.get_rng_state(), before)
    for d in ("a2b", "b2a"):
        # Not bit-equal: frozen tensors take another convolution kernel.
        torch.testing.assert_close(again.translate(image, direction=d), generator.translate(image, direction=d))
    assert read_adapter(tmp_path).tensors.keys() == set(trainable_names(generator))
    assert not [p for p in again.parameters() if p.requires_grad]
    # What was loaded can be saved again, whole; what was merged is no adapter any more.
    save_adapter(again, tmp_path / "copy", RunFacts(task="unpaired"))
    kept, copied = (read_adapter(folder).tensors for folder in (tmp_path / "adapter", tmp_path / "copy"))
    assert kept.keys() == copied.keys() and all(torch.equal(kept[k], copied[k]) for k in kept)
    for refused in (lambda g: save_adapter(g, tmp_path / "merged"), to_released, to_diffusers):
        with pytest.raises(ValueError, match="merged"):
            refused(again.merge())


@pytest.mark.parametrize(
    ("picture", "prompt", "words"),
    [
        (torch.full((1, 3, 16, 16), 200.0), "a day", "reach from 200 to 200"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "a day", "torch.uint8"),
        (torch.zeros(3, 16, 16), "a day", r"\(3, 16, 16\)"),
        (torch.zeros(3, 3, 16, 16), ["a day", "a night"], "2 prompts for 3 images"),
    ],
)
def test_translate_refuses_other_images_and_prompts(picture, prompt, words, tiny_base):
    with pytest.raises(ValueError, match=words):
        build(tiny_base).translate(picture, prompt)


def test_init_starts_from_an_adapter_and_refuses_another_rank(tiny_base, image, tmp_path):
    generator = wake(build(tiny_base))
    save_adapter(generator, tmp_path, RunFacts(task="unpaired"))
    again = build(tiny_base, init=str(tmp_path))
    assert torch.equal(again(image, embed(again)), generator(image, embed(generator)))
    assert trainable_names(again) == trainable_names(generator)
    with pytest.raises(ValueError, match=r"rank_unet=4.*asks for 8"):
        build(tiny_base, init=str(tmp_path), rank_unet=8)


def test_another_base_is_refused(tiny_base, tmp_path):
    generator = build(tiny_base)
    save_adapter(generator, tmp_path)
    with pytest.raises(ValueError, match="trained on the base"):
        load_generator(str(tmp_path), base="pocket")


def test_missing_and_misshapen_tensors_are_named(tiny_base):
    generator = build(tiny_base)
    tensors = trained_state(generator)
    name = "unet.conv_in.trained.weight"
    with pytest.raises(ValueError, match=rf"1 tensors missing .first {name}"):
        load_trained(generator, {k: v for k, v in tensors.items() if k != name}, "x")
    with pytest.raises(ValueError, match="another shape"):
        load_trained(generator, tensors | {name: torch.zeros(1)}, "x")
    with pytest.raises(ValueError, match=r"unknown .first extra"):
        generator.load_adapter(Adapter(tensors | {"extra": torch.zeros(1)}, AdapterCard.of(generator, RunFacts()), "x"))


def test_unknown_direction(tiny_base, image):
    generator = build(tiny_base, directions=["a2b"])
    with pytest.raises(ValueError, match="b2a"):
        generator.translate(image, "a day", direction="b2a")
    with pytest.raises(ValueError, match="directions"):
        build(tiny_base, directions=["a2c"])


def test_the_text_encoder_can_leave_memory(tiny_base):
    generator = build(tiny_base)
    first = generator.encode_prompts(["a day", "a night"])
    generator.encode_prompts.release()
    assert generator.encode_prompts._text is None
    assert torch.equal(generator.encode_prompts(["a night", "a day"]), first.flip(0))
    assert generator.encode_prompts._text is None, "cached prompts need no text encoder"


@pytest.mark.parametrize("skip_lora", [False, True])
def test_skip_parameters_are_all_trained_ones_of_the_skips_and_no_others(tiny_base, skip_lora):
    generator = build(tiny_base, skip_lora=skip_lora)
    named = [p for name, p in generator.named_parameters() if p.requires_grad and ".skip_convs." in name]
    assert [id(p) for p in generator.skip_parameters()] == [id(p) for p in named] and named
    assert build(tiny_base, skips=False).skip_parameters() == []
