import pytest
import torch
from torch import nn

from networks import OneStepGenerator, load_generator
from networks.checkpoints.adapter import save_adapter
from networks.one_step.lora import lora_layers, trainable_names

from .test_generator import build, embed, wake


@pytest.fixture
def image():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1


def rounded(base):
    """A float32 generator whose frozen weights were rounded to bfloat16 by hand."""
    generator = wake(build(base))
    with torch.no_grad():
        for name, layer in generator.named_modules():
            frozen = isinstance(layer, nn.Conv2d | nn.Linear) and not layer.weight.requires_grad
            if frozen and "conv_in.pretrained" not in name:
                layer.weight.copy_(layer.weight.bfloat16().float())
    return generator


def test_frozen_weights_lie_in_half_the_memory_and_trained_ones_do_not(tiny_base):
    generator = build(tiny_base, frozen_dtype="bfloat16")
    trained = set(trainable_names(generator))
    for name, p in generator.named_parameters():
        halved = p.dim() > 1 and name not in trained and "conv_in.pretrained" not in name
        assert p.dtype == (torch.bfloat16 if halved else torch.float32), name
    a2b, b2a = (dict(generator.autoencoders[d].named_parameters()) for d in ("a2b", "b2a"))
    for name, p in a2b.items():
        assert (p.data_ptr() == b2a[name].data_ptr()) is (not p.requires_grad), name


@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_computes_what_rounded_weights_compute(tiny_base, image, checkpointing):
    wanted, found = rounded(tiny_base), wake(build(tiny_base, frozen_dtype="bfloat16", checkpointing=checkpointing))
    found.train()
    outputs = [generator(image, embed(generator)) for generator in (wanted, found)]
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-5, rtol=1e-4)
    for output in outputs:
        output.square().mean().backward()
    grads = dict(found.named_parameters())
    for name, p in wanted.named_parameters():
        if p.grad is not None:
            assert (grads[name].grad - p.grad).norm() <= 1e-3 * p.grad.norm(), name


def test_large_layers_and_merging_too(tiny_base, image, monkeypatch):
    """Without the shortcut of small layers, as in every layer of SD-Turbo; merged weights are float32."""
    monkeypatch.setattr("networks.one_step.lora.SMALL_LAYER", 0)
    wanted = rounded(tiny_base)
    found = wake(build(tiny_base, frozen_dtype="bfloat16"))
    e = embed(wanted)
    torch.testing.assert_close(found(image, e), wanted(image, e), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.merge()(image, e), wanted(image, e), atol=1e-4, rtol=1e-3)
    assert not lora_layers(found)


def test_merged_in_bfloat16_it_translates(tiny_base, image):
    generator = wake(build(tiny_base, frozen_dtype="bfloat16"))
    wanted = generator(image, embed(generator))
    with torch.autocast("cpu", torch.bfloat16):
        found = generator.merge(torch.bfloat16)(image, embed(generator))
    plain = build(tiny_base)(image, embed(generator))
    assert (found - wanted).abs().mean() < 0.1 * (plain - wanted).abs().mean()


def test_an_adapter_remembers_what_it_was_trained_on(tiny_base, image, tmp_path):
    generator = wake(build(tiny_base, frozen_dtype="bfloat16"))
    generator.prompts = {"a2b": "driving in dense fog", "b2a": "driving on a clear day"}
    loaded = load_generator(save_adapter(generator, tmp_path))
    assert torch.equal(loaded.translate(image), generator.translate(image))
    plain = wake(build(tiny_base))
    plain.prompts = generator.prompts
    assert not torch.equal(plain.translate(image), generator.translate(image))


def test_other_dtypes_are_refused(tiny_base):
    with pytest.raises(ValueError, match="'float32' or 'bfloat16', got 'float16'"):
        OneStepGenerator(str(tiny_base), frozen_dtype="float16")  # type: ignore[arg-type]
