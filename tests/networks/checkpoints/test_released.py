"""Released files of both formats, written in miniature, against the method's formulas in double precision."""

import os

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from networks import OneStepGenerator, load_generator
from networks.checkpoints.adapter import read_adapter, save_adapter
from networks.checkpoints.card import RunFacts
from networks.checkpoints.released import read_released
from networks.one_step.lora import trainable_names

UNET_ENDINGS = (
    "to_k to_q to_v to_out.0 conv conv1 conv2 conv_shortcut conv_out proj_in proj_out ff.net.2 ff.net.0.proj".split()
)
VAE_ENDINGS = "conv1 conv2 conv_in conv_shortcut conv conv_out to_k to_q to_v to_out.0".split()
SKIP_NAMES = [f"skip_conv_{k}" for k in (1, 2, 3, 4)]
RANK_UNET, RANK_VAE = 3, 2
ALPHA_BAR = float(torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)[-1])


def ends_in(name, endings):
    return any(name == e or name.endswith(f".{e}") for e in endings)


def random_lora(weight, rank, draw):
    """A and B of peft's shapes: linear (r, in), (out, r); convolution (r, in, k, k), (out, r, 1, 1)."""
    ones = (1,) * (weight.ndim - 2)
    a = torch.randn(rank, *weight.shape[1:], generator=draw) / weight[0].numel() ** 0.5
    b = torch.randn(weight.shape[0], rank, *ones, generator=draw) * 0.3
    return a, b


def delta(a, b):
    return (b.double().flatten(1) @ a.double().flatten(1)).view(b.shape[0], *a.shape[1:])


class Released:
    """What a released trainer holds in memory: LoRA by module name, skip convolutions, conv_in."""

    def __init__(self, base, seed):
        draw = torch.Generator().manual_seed(seed)
        self.unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
        self.vae = AutoencoderKL.from_pretrained(base, subfolder="vae")
        self.unet_lora = {
            name: random_lora(module.weight, RANK_UNET, draw)
            for name, module in self.unet.named_modules()
            if ends_in(name, [*UNET_ENDINGS, "conv_in"])
        }
        self.vae_lora, self.skips, self.skip_lora = {}, {}, {}
        for direction in ("a2b", "b2a"):
            self.vae_lora[direction] = {
                name: random_lora(module.weight, RANK_VAE, draw)
                for name, module in self.vae.named_modules()
                if ends_in(name, VAE_ENDINGS)
            }
            sources = [block.resnets[0].in_channels for block in reversed(self.vae.encoder.down_blocks)]
            targets = [block.resnets[0].in_channels for block in self.vae.decoder.up_blocks]
            self.skips[direction] = [
                torch.randn(c_out, c_in, 1, 1, generator=draw) * 0.2
                for c_in, c_out in zip(sources, targets, strict=True)
            ]
            self.skip_lora[direction] = [random_lora(w, RANK_VAE, draw) for w in self.skips[direction]]
        shape = self.unet.conv_in.weight.shape
        self.conv_in = torch.randn(shape, generator=draw) * 0.2, torch.randn(shape[0], generator=draw) * 0.2

    def skip_tensors(self, direction):
        for k, (weight, (a, b)) in enumerate(
            zip(self.skips[direction], self.skip_lora[direction], strict=True), start=1
        ):
            yield f"decoder.skip_conv_{k}.base_layer.weight", weight
            yield f"decoder.skip_conv_{k}.lora_A.vae_skip.weight", a
            yield f"decoder.skip_conv_{k}.lora_B.vae_skip.weight", b

    def vae_lora_tensors(self, direction):
        for name, (a, b) in self.vae_lora[direction].items():
            yield f"{name}.lora_A.vae_skip.weight", a
            yield f"{name}.lora_B.vae_skip.weight", b

    def paired(self, stochastic):
        twin = "conv_in_curr." if stochastic else ""
        unet = {f"conv_in.{twin}weight": self.conv_in[0], f"conv_in.{twin}bias": self.conv_in[1]}
        if stochastic:
            pretrained = self.unet.conv_in.state_dict().items()
            unet |= {f"conv_in.conv_in_pretrained.{name}": tensor for name, tensor in pretrained}
        for name, (a, b) in self.unet_lora.items():
            if name != "conv_in":
                unet |= {f"{name}.lora_A.default.weight": a, f"{name}.lora_B.default.weight": b}
        return {
            "unet_lora_target_modules": UNET_ENDINGS,
            "vae_lora_target_modules": VAE_ENDINGS + SKIP_NAMES,
            "rank_unet": RANK_UNET,
            "rank_vae": RANK_VAE,
            "state_dict_unet": unet,
            "state_dict_vae": {**dict(self.vae_lora_tensors("a2b")), **dict(self.skip_tensors("a2b"))},
        }

    def unpaired(self):
        parts = {"encoder": {}, "decoder": {}, "other": {}}
        lists = {"encoder": [], "decoder": [], "other": []}
        for name, (a, b) in self.unet_lora.items():
            encoder, decoder = "down_blocks" in name or name == "conv_in", "up_blocks" in name
            part = "encoder" if encoder else "decoder" if decoder else "other"
            parts[part] |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
            lists[part].append(name)
        whole = {}
        for prefix, direction in (("vae", "a2b"), ("vae_b2a", "b2a")):
            for name, tensor in self.vae.state_dict().items():
                module, _, kind = name.rpartition(".")
                wrapped = module in self.vae_lora[direction]
                whole[f"{prefix}.{module}.base_layer.{kind}" if wrapped else f"{prefix}.{name}"] = tensor
            own = {**dict(self.vae_lora_tensors(direction)), **dict(self.skip_tensors(direction))}
            whole |= {f"{prefix}.{name}": tensor for name, tensor in own.items()}
        # Each wrapper repeats everything; garbage in the half that it does not run must not be taken.
        enc = {k: torch.full_like(t, torch.nan) if ".decoder." in k else t for k, t in whole.items()}
        dec = {k: torch.full_like(t, torch.nan) if ".encoder." in k else t for k, t in whole.items()}
        return {
            "rank_unet": RANK_UNET,
            "rank_vae": RANK_VAE,
            "l_target_modules_encoder": lists["encoder"],
            "l_target_modules_decoder": lists["decoder"],
            "l_modules_others": lists["other"],
            "vae_lora_target_modules": VAE_ENDINGS + SKIP_NAMES,
            "sd_encoder": parts["encoder"],
            "sd_decoder": parts["decoder"],
            "sd_other": parts["other"],
            "sd_vae_enc": enc,
            "sd_vae_dec": dec,
        }

    @torch.no_grad()
    def evaluate(self, base, image, prompt, direction, r, seed, paired):
        """METHOD's formulas in float64, LoRA merged into copies of the weights."""
        unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet").double()
        unet_scale = 8 / RANK_UNET if paired else 1.0
        for name, (a, b) in self.unet_lora.items():
            if name != "conv_in":
                unet.get_submodule(name).weight += r * unet_scale * delta(a, b)
        if paired:
            for own, trained in zip((unet.conv_in.weight, unet.conv_in.bias), self.conv_in, strict=True):
                own.copy_(r * trained.double() + (1 - r) * own)
        else:
            unet.conv_in.weight += r * delta(*self.unet_lora["conv_in"])
        vae = AutoencoderKL.from_pretrained(base, subfolder="vae").double()
        for name, (a, b) in self.vae_lora[direction].items():
            vae.get_submodule(name).weight += r * 8 / RANK_VAE * delta(a, b)

        tokenizer = CLIPTokenizer.from_pretrained(base, subfolder="tokenizer")
        text_encoder = CLIPTextModel.from_pretrained(base, subfolder="text_encoder").double()
        tokens = tokenizer([prompt], padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt")
        context = text_encoder(tokens.input_ids)[0].expand(len(image), -1, -1)

        x = image.double()
        x = vae.encoder.conv_in((x + 1) / 2 if paired else x)
        skips = []
        for block in vae.encoder.down_blocks:
            skips.append(x)
            x = block(x)
        x = vae.encoder.conv_out(F.silu(vae.encoder.conv_norm_out(vae.encoder.mid_block(x))))
        z = vae.quant_conv(x)[:, :4] * 0.18215
        noise = torch.randn((1, 4, *z.shape[-2:]), generator=torch.Generator().manual_seed(seed)).double()
        z = r * z + (1 - r) * noise
        eps = unet(z, 999, context).sample
        x = (z - (1 - ALPHA_BAR) ** 0.5 * eps) / ALPHA_BAR**0.5 / 0.18215
        x = vae.decoder.mid_block(vae.decoder.conv_in(vae.post_quant_conv(x)))
        for k, block in enumerate(vae.decoder.up_blocks):
            weight = self.skips[direction][k].double() + r * 8 / RANK_VAE * delta(*self.skip_lora[direction][k])
            x = block(x + F.conv2d(r * skips[3 - k], weight))
        return vae.decoder.conv_out(F.silu(vae.decoder.conv_norm_out(x))).clamp(-1, 1)


@pytest.fixture(scope="module")
def released(tiny_base):
    return Released(tiny_base, seed=3)


@pytest.fixture(scope="module")
def files(released, tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    contents = {"paired": released.paired(False), "stochastic": released.paired(True), "unpaired": released.unpaired()}
    for name, content in contents.items():
        torch.save(content, folder / f"{name}.pkl")
    return {name: folder / f"{name}.pkl" for name in contents}


@pytest.fixture(scope="module")
def photos():
    return torch.rand((2, 3, 24, 16), generator=torch.Generator().manual_seed(8)) * 2 - 1


CASES = [("paired", "a2b"), ("stochastic", "a2b"), ("unpaired", "a2b"), ("unpaired", "b2a")]


@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize(("kind", "direction"), CASES)
def test_translates_as_the_formulas_say(files, released, tiny_base, photos, kind, direction, strength):
    prompt = "driving in the night"
    generator = load_generator(str(files[kind]), str(tiny_base))
    ours = generator.translate(photos, prompt, direction, strength, seed=5)
    truth = released.evaluate(tiny_base, photos, prompt, direction, strength, 5, paired=kind != "unpaired")
    assert 0.02 < truth.std() and truth.abs().lt(1).float().mean() > 0.5, "a saturated picture would hide differences"
    assert (ours - truth).abs().max() < 2e-4
    if strength == 1:
        assert (generator.merge().translate(photos, prompt, direction) - truth).abs().max() < 2e-4


def test_both_directions_and_the_base_differ(files, tiny_base, photos):
    generator = load_generator(str(files["unpaired"]), str(tiny_base))
    plain = OneStepGenerator(str(tiny_base), rank_unet=2)
    fakes = [generator.translate(photos, "driving", d) for d in ("a2b", "b2a")]
    fakes.append(plain.translate(photos, "driving", "a2b"))
    for k in range(3):
        assert (fakes[k] - fakes[k - 1]).abs().mean() > 0.01


@pytest.mark.parametrize("kind", ["paired", "unpaired"])
def test_card_says_what_rebuilds_it(files, kind):
    card = read_adapter(files[kind]).card
    assert card.run.source == "released" and card.run.task == kind and card.prompts == {}
    assert card.base is None and card.base_fingerprint is None
    settings = card.settings
    assert settings.alpha_unet == (8 if kind == "paired" else RANK_UNET) and settings.alpha_vae == 8
    assert settings.directions == (("a2b",) if kind == "paired" else ("a2b", "b2a"))
    assert "conv_in" not in settings.unet_targets and "conv_in" in settings.vae_targets
    assert not set(SKIP_NAMES) & set(settings.vae_targets)


@pytest.mark.parametrize("kind", ["paired", "unpaired"])
def test_can_be_trained_on_and_saved_as_ours(files, tiny_base, tmp_path, photos, kind):
    directions = ["a2b"] if kind == "paired" else ["a2b", "b2a"]
    start = OneStepGenerator(
        str(tiny_base), directions=directions, rank_unet=RANK_UNET, rank_vae=RANK_VAE, init=str(files[kind])
    )
    assert {"unet.conv_in.trained.bias", "autoencoders.a2b.skip_convs.3.base_layer.weight"} <= set(
        trainable_names(start)
    )
    saved = load_generator(str(save_adapter(start, tmp_path / "adapter", RunFacts(task=kind))))
    direct = load_generator(str(files[kind]), str(tiny_base))
    fake_b = direct.translate(photos, "driving")
    assert torch.equal(fake_b, saved.translate(photos, "driving"))
    # Other kernels run where weights ask for gradients, which moves the last bits.
    assert (fake_b - start.translate(photos, "driving")).abs().max() < 5e-5


def test_another_rank_is_refused_by_name(files, tiny_base):
    with pytest.raises(ValueError, match=r"rank_unet=3.*asks for 4"):
        OneStepGenerator(str(tiny_base), rank_unet=4, rank_vae=RANK_VAE, init=str(files["unpaired"]))


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it_ran"),)

    torch.save({"rank_unet": Runs()}, tmp_path / "evil.pkl")
    with pytest.raises(ValueError, match=r"evil\.pkl.*mkdir.*pickle"):
        read_released(tmp_path / "evil.pkl")
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut short"])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "cut.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=r"cut\.pkl was not read"):
        read_released(tmp_path / "cut.pkl")


def test_a_foreign_file_is_refused_with_the_missing_keys(tmp_path, files):
    torch.save({"model": torch.zeros(2)}, tmp_path / "foreign.pkl")
    with pytest.raises(ValueError, match=r"foreign\.pkl.*state_dict_unet"):
        read_released(tmp_path / "foreign.pkl")
    content = torch.load(files["unpaired"], weights_only=True)
    del content["sd_other"]
    torch.save(content, tmp_path / "partial.pkl")
    with pytest.raises(ValueError, match=r"partial\.pkl.*unpaired, without sd_other\."):
        read_released(tmp_path / "partial.pkl")
    content["sd_other"] = {"mid_block.x.weight": torch.zeros(1)}
    torch.save(content, tmp_path / "strange.pkl")
    with pytest.raises(ValueError, match=r"mid_block\.x\.weight in sd_other"):
        read_released(tmp_path / "strange.pkl")
    content["rank_unet"] = "3"
    torch.save(content, tmp_path / "typed.pkl")
    with pytest.raises(ValueError, match="rank_unet should be an integer of at least 1"):
        read_released(tmp_path / "typed.pkl")
