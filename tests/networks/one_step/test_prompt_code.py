"""Prompts that gate the ranks of the autoencoder's LoRA."""

import pytest
import torch

from networks import load_generator
from networks.checkpoints.adapter import read_adapter, save_adapter, trained_state
from networks.checkpoints.released import to_released
from networks.one_step import lora
from networks.one_step.lora import is_gated, lora_layers
from networks.one_step.prompt_code import PromptCode

from .test_generator import GATE_PROMPTS as PROMPTS
from .test_generator import build, open_gates, wake


def gated(base, **settings):
    generator = open_gates(wake(build(base, directions=["a2b"], prompt_gates=3, **settings)))
    generator.prompts = {"a2b": PROMPTS[0]}
    return generator


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_an_untrained_lora_is_a_no_op_whatever_its_gates(tiny_base, images):
    plain, generator = (build(tiny_base, directions=["a2b"], prompt_gates=k) for k in (0, 3))
    embedding = plain.encode_prompts(PROMPTS)
    generator.set_training_prompts(PROMPTS)
    gates = [layer.gate(generator.prompt_code(embedding)) for layer in lora_layers(generator.autoencoders)]
    assert all(gate.std() > 0 for gate in gates)
    for one in embedding.split(1):
        torch.testing.assert_close(generator(images, one), plain(images, one), atol=1e-5, rtol=1e-4)


def test_only_the_autoencoder_is_gated_and_the_gates_train(tiny_base):
    generator = gated(tiny_base, skip_lora=True)
    assert not any(map(is_gated, lora_layers(generator.unet)))
    assert all(map(is_gated, lora_layers(generator.autoencoders)))
    names = set(generator.trained_names)
    assert {n for n, _ in generator.named_parameters() if "gate" in n or "prompt_code" in n} <= names
    assert {"prompt_code.mean", "prompt_code.scale"} <= trained_state(generator).keys() - names


def test_codes_are_standardised_over_the_training_prompts_once():
    code = PromptCode(6, 4)
    embeddings = torch.randn(5, 7, 6, generator=torch.Generator().manual_seed(0))
    embeddings[..., 5] = 1  # what no prompt differs in
    assert not code(embeddings).any()
    code.standardise(embeddings)
    pooled = embeddings.mean(dim=1)
    standard = (pooled - pooled.mean(dim=0)) / pooled.std(dim=0, correction=0)
    standard[:, 5] = 0
    torch.testing.assert_close(code(embeddings), torch.tanh(standard @ code.projection.T))
    known = code(embeddings)
    code.standardise(embeddings * 3 + 1)
    assert torch.equal(code(embeddings), known), "an adapter that is trained further keeps its codes"
    assert code(embeddings * 100).abs().max() <= 1


def test_training_prompts_that_do_not_differ_leave_the_gates_open_and_are_told_of(tiny_base, caplog):
    generator = build(tiny_base, directions=["a2b"], prompt_gates=3)
    generator.set_training_prompts(PROMPTS[:1])
    assert not generator.prompt_code(generator.encode_prompts(PROMPTS)).any()
    assert "prompt_gates=3 has no effect: all training images have the same prompt" in caplog.text


def test_of_many_training_prompts_some_from_everywhere_stand_for_all(tiny_base):
    generator = build(tiny_base, directions=["a2b"], prompt_gates=3)
    prompts = [f"street {k}" for k in range(600)]
    generator.set_training_prompts(prompts)
    pooled = generator.encode_prompts(prompts[::3]).mean(dim=1)
    torch.testing.assert_close(generator.prompt_code.mean, pooled.mean(dim=0))


@pytest.mark.parametrize("limit", [lora.SMALL_LAYER, 0])
def test_each_image_of_a_batch_follows_its_own_prompt(tiny_base, images, limit, monkeypatch):
    """Beside the weight for several prompts, in one formed weight for a single one: the same numbers."""
    monkeypatch.setattr(lora, "SMALL_LAYER", limit)
    generator = gated(tiny_base)
    embedding = generator.encode_prompts(PROMPTS)
    together = generator(images, embedding)
    for k in range(3):
        alone = generator(images[k : k + 1], embedding[k : k + 1])
        torch.testing.assert_close(together[k : k + 1], alone, atol=1e-4, rtol=1e-3)
    with torch.no_grad():
        for layer in filter(is_gated, lora_layers(generator)):
            layer.gate.weight.zero_()
    assert ((generator(images, embedding) - together).abs().amax((1, 2, 3)) > 1e-2).all()


@pytest.mark.parametrize("count", [1, 3])
def test_recomputed_blocks_have_the_same_gradients(tiny_base, images, count):
    grads = []
    for checkpointing in (False, True):
        generator = gated(tiny_base, checkpointing=checkpointing)
        generator(images[:count], generator.encode_prompts(PROMPTS[:count])).square().mean().backward()
        grads.append({n: p.grad for n, p in generator.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() and any("gate" in name for name in grads[0])
    for name, grad in grads[0].items():
        assert (grad - grads[1][name]).norm() <= 1e-4 * grad.norm(), name


def test_an_adapter_keeps_gates_and_codes(tiny_base, images, tmp_path):
    generator = gated(tiny_base)
    save_adapter(generator, tmp_path)
    assert read_adapter(tmp_path).card.settings.prompt_gates == 3
    loaded = load_generator(tmp_path)
    for prompt in PROMPTS:
        assert torch.equal(loaded.translate(images, prompt), generator.translate(images, prompt))


def test_merged_it_still_follows_prompts(tiny_base, images):
    generator, merged = gated(tiny_base), gated(tiny_base).merge()
    assert not lora_layers(merged.unet)
    for prompt in (PROMPTS[1], PROMPTS):
        wanted = generator.translate(images, prompt)
        torch.testing.assert_close(merged.translate(images, prompt), wanted, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("frozen_dtype", ["float32", "bfloat16"])
def test_merged_in_bfloat16_it_is_close_whatever_the_base_was_stored_in(tiny_base, images, frozen_dtype):
    wanted = gated(tiny_base, frozen_dtype=frozen_dtype).translate(images, PROMPTS)
    merged = gated(tiny_base, frozen_dtype=frozen_dtype).merge(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = merged.translate(images, PROMPTS)
    plain = build(tiny_base, directions=["a2b"]).translate(images, PROMPTS)
    assert (found - wanted).abs().mean() < 0.1 * (plain - wanted).abs().mean()
    gated_layers = lora_layers(merged.autoencoders)
    few = {
        layer.lora_A["default"].weight.dtype
        for layer in gated_layers
        if min(layer.get_base_layer().weight.shape[:2]) <= 4
    }
    rest = {
        layer.lora_A["default"].weight.dtype
        for layer in gated_layers
        if min(layer.get_base_layer().weight.shape[:2]) > 8
    }
    assert (few, rest) == ({torch.float32}, {torch.bfloat16})


def test_a_strength_scales_gated_layers_too(tiny_base, images):
    generator = gated(tiny_base)
    embedding, noise = generator.encode_prompts(PROMPTS), torch.randn(1, 4, 4, 4)
    full = generator(images, embedding, strength=torch.ones(3), noise=noise)
    torch.testing.assert_close(full, generator(images, embedding), atol=1e-5, rtol=1e-4)
    layer = lora_layers(generator.autoencoders)[0]
    x = torch.randn(3, layer.get_base_layer().in_channels, 8, 8)
    with lora.modulated(torch.zeros(3), generator.prompt_code(embedding)):
        torch.testing.assert_close(layer(x), layer.get_base_layer()(x))


def test_where_gates_mean_nothing_they_are_refused(tiny_base):
    with pytest.raises(ValueError, match="prompt_gates must be 0 with two directions"):
        build(tiny_base, prompt_gates=3)
    generator = build(tiny_base, directions=["a2b"], prompt_gates=3)
    with pytest.raises(ValueError, match="No released format holds gates"):
        to_released(generator)
