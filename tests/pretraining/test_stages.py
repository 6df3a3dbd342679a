import json

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from lightning import Callback, Trainer
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from networks.one_step.bases import POCKET
from pretraining.sampling import draw_many_steps, draw_one_step
from pretraining.stages import AutoencoderStage, DistillationStage, StageOptions, TeacherStage
from pretraining.stages.autoencoder import kl_divergence
from pretraining.stages.stage import average
from pretraining.stages.teacher import min_snr_weights
from pretraining.vocabulary import merges_for, read_tokenizer, split, write_tokenizer

SCHEDULE = json.loads((POCKET / "scheduler" / "scheduler_config.json").read_text())
TEXT = {"vocab_size": 10, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


class Terms(Callback):
    """Reads every step's loss, whatever is logged when."""

    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if outputs is not None and "loss" in outputs:
            self.losses.append(float(outputs["loss"]))


class Repeat(torch.utils.data.Dataset):
    def __init__(self, steps, **batch):
        self.steps, self.batch = steps, batch

    def __len__(self):
        return self.steps

    def __getitem__(self, step):
        return {**self.batch, "step": step}


def run(module, **batch):
    torch.manual_seed(0)
    terms = Terms()
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    trainer = Trainer(accelerator="cpu", max_epochs=1, callbacks=[terms], **quiet)
    trainer.fit(module, torch.utils.data.DataLoader(Repeat(module.steps, **batch), batch_size=None))
    return terms.losses


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def small_unet():
    return UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(16, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=16,
    )


def small_text():
    return CLIPTextModel(CLIPTextConfig(**TEXT, max_position_embeddings=4, eos_token_id=9, bos_token_id=8))


TOKENS = torch.tensor([[8, 1, 9, 9], [8, 2, 9, 9]]).repeat(4, 1)


def teacher(steps, **options):
    empty = torch.tensor([[8, 9, 9, 9]])
    return TeacherStage(
        StageOptions(steps, warmup=2, seed=0),
        small_unet(),
        small_text(),
        SCHEDULE,
        empty,
        lambda latent: latent,
        TOKENS,
        **options,
    )


def distillation(steps, **options):
    weights = {"regression": 1.0, "regression_late": 0.5, "identity": 0.5, "gan": 0.1}
    return DistillationStage(
        StageOptions(steps, warmup=0, seed=0),
        small_unet(),
        small_text(),
        SCHEDULE,
        lambda latent: latent,
        TOKENS,
        **{"weights": weights, "gan_from": 0.5, **options},
    )


def test_the_teachers_loss_falls():
    losses = run(teacher(60, lr=5e-3), latent=torch.randn(8, 4, 4, 4), tokens=TOKENS)
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_the_teacher_trains_both_networks_and_their_average_follows():
    module = teacher(3)
    before = {name: value.clone() for name, value in module.average.module.state_dict().items()}
    run(module, latent=torch.randn(8, 4, 4, 4), tokens=TOKENS)
    after = module.average.module.state_dict()
    moved = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert moved == {"unet", "text_encoder"}
    assert module.average.n_averaged == 3


def test_min_snr_weighs_the_clean_latent_alike_above_gamma():
    snr = torch.tensor([0.01, 5.0, 500.0])
    weights = min_snr_weights(snr / (1 + snr), 5.0)
    # in terms of x_0 the squared error counts SNR times as much
    torch.testing.assert_close(weights * snr, torch.tensor([0.01, 5.0, 5.0]), rtol=1e-4, atol=0)


def test_one_step_is_the_schedulers_clean_latent_at_the_last_timestep():
    """What fails if the student were trained on another formula, timestep or noise level than the generator uses."""
    module, noise = distillation(2), torch.randn(2, 4, 4, 4)
    context = torch.randn(2, 4, 16)
    seen = []

    class Spy(nn.Module):
        def forward(self, sample, timestep, context):
            seen.append(timestep)
            return type("Output", (), {"sample": 0.9 * sample})

    result = module.one_step(Spy(), noise, context)
    scheduler = DDPMScheduler.from_config(SCHEDULE)
    expected = scheduler.step(0.9 * noise, 999, noise).pred_original_sample
    assert seen == [999]
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    assert module.alpha_bar == pytest.approx(0.00466, rel=1e-2)


def test_one_step_goes_to_the_teachers_sample_from_noise_and_nowhere_from_a_latent():
    module = distillation(60, lr=3e-3, gan_from=1.0)
    noise, target, latent = torch.randn(3, 8, 4, 4, 4)
    context, _ = module.embed(TOKENS)

    def distance(start, end):
        with torch.no_grad():
            return float((module.one_step(module.student, start, context) - end).square().mean())

    before = [distance(noise, target), distance(latent, latent)]
    run(module, latent=latent, tokens=TOKENS, pair_noise=noise, pair_target=target, pair_tokens=TOKENS)
    assert distance(noise, target) < 0.2 * before[0]
    assert distance(latent, latent) < 0.2 * before[1]


def test_distillation_leaves_teacher_and_text_encoder_alone_and_trains_the_heads():
    module, latent = distillation(4), torch.randn(8, 4, 4, 4)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    run(module, latent=latent, tokens=TOKENS, pair_noise=latent, pair_target=latent, pair_tokens=TOKENS)
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert not [name for name in changed if name.startswith(("discriminator.unet", "text_encoder"))]
    assert {name.split(".")[0] for name in changed} == {"student", "average", "discriminator"}


def test_renoising_follows_the_schedule():
    module, latent = distillation(2), torch.randn(1, 4, 64, 64)
    t = torch.tensor([700])
    noised = module.renoise(latent, t, torch.Generator().manual_seed(0))
    noise = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = DDPMScheduler.from_config(SCHEDULE).add_noise(latent, noise, t)
    torch.testing.assert_close(noised, expected)


def test_the_solver_recovers_a_known_distribution():
    """With the exact noise prediction for the single image x, the solver must end at x."""
    image = torch.randn(1, 4, 4, 4)
    alphas = DDPMScheduler.from_config(SCHEDULE).alphas_cumprod

    class Exact(nn.Module):
        def forward(self, sample, timestep, context):
            abar = alphas[int(timestep)]
            return type("Output", (), {"sample": (sample - abar.sqrt() * image) / (1 - abar).sqrt()})

    context = torch.zeros(2, 1, 1)
    drawn = draw_many_steps(Exact(), context, context[:1], torch.randn(2, 4, 4, 4), SCHEDULE, 12, 1.5)
    torch.testing.assert_close(drawn, image.expand_as(drawn), rtol=1e-2, atol=1e-2)
    one = draw_one_step(Exact(), context, torch.randn(2, 4, 4, 4), float(alphas[-1]), 999, "epsilon")
    torch.testing.assert_close(one, image.expand_as(one), rtol=1e-2, atol=1e-2)


def small_vae():
    channels = (8, 8, 8)
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        latent_channels=4,
    )


def test_the_encoder_stands_still_once_the_discriminator_has_begun():
    weights = {"l1": 1.0, "lpips": 1.0, "kl": 1e-3, "gan": 0.1}
    options = StageOptions(2, warmup=0, seed=0)
    module = AutoencoderStage(options, small_vae(), weights, gan_from=0.0, discriminator_width=8, features="random")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    run(module, image=torch.rand(2, 3, 32, 32) * 2 - 1)
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert not [name for name in changed if name.startswith(("vae.encoder", "vae.quant_conv"))]
    assert {name.split(".")[0] for name in changed} == {"vae", "discriminator"}


def test_the_autoencoder_learns():
    weights = {"l1": 1.0, "lpips": 0.1, "kl": 1e-4, "gan": 0.1}
    options = StageOptions(30, warmup=2, seed=0)
    module = AutoencoderStage(options, small_vae(), weights, gan_from=1.0, lr=5e-3, features="random")
    ramp = torch.linspace(-1, 1, 16).expand(2, 3, 16, 16).contiguous()

    def error():
        with torch.no_grad():
            return float((module.vae(ramp).sample - ramp).abs().mean())

    before = error()
    run(module, image=ramp)
    assert error() < 0.6 * before


def test_kl_is_zero_for_the_standard_normal_only():
    zero = torch.zeros(2, 4)
    assert kl_divergence(zero, zero) == 0
    assert kl_divergence(zero + 1, zero) == pytest.approx(0.5)


def test_a_step_draws_the_same_numbers_whenever_it_comes():
    module = teacher(5)
    first, second, other = (torch.rand(3, generator=module.generator(step)) for step in (3, 3, 4))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_rates_rise_then_end_at_zero():
    factors = [teacher(50).lr_factor(step) for step in (0, 1, 25, 50)]
    assert factors[0] == pytest.approx(0.5) and factors[2] == pytest.approx(0.5) and factors[3] == pytest.approx(0)


def test_the_average_warms_up():
    linear = nn.Linear(1, 1, bias=False)
    averaged = average(linear, 0.999)
    for value in (1.0, 2.0):
        nn.init.constant_(linear.weight, value)
        averaged.update_parameters(linear)
    # the first update copies; the second has decay min(0.999, 2 / 11)
    assert averaged.module.weight.item() == pytest.approx(1 + (1 - 2 / 11))


def test_every_known_word_is_one_token(tmp_path):
    words = ["street", "red", "trees", "three", "horse", "horses", "foggy", "fog", ","]
    write_tokenizer(tmp_path, words)
    tokenizer = read_tokenizer(tmp_path)
    assert all(len(tokenizer.tokenize(word)) == 1 for word in words)
    assert tokenizer.decode(tokenizer("red street")["input_ids"], skip_special_tokens=True).strip() == "red street"
    assert len(tokenizer.tokenize("Löwe")) > 1  # unknown words are spelt, never lost


def test_our_splitting_is_the_tokenizers(tmp_path):
    words = ["banana", "ananas", "nana", "an"]
    write_tokenizer(tmp_path, words)
    tokenizer = read_tokenizer(tmp_path)
    for word in [*words, "bananas", "annanan"]:
        assert split(word, merges_for(words)) == tokenizer.tokenize(word)
