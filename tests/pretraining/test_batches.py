import numpy as np
import pytest
import torch

from datamodules import scenes
from pretraining import captioned_scenes
from pretraining.batches import ImageBatches, LatentBatches, PairBatches, PretrainingData
from pretraining.captioned_scenes import render_scenes, worlds


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return render_scenes(tmp_path_factory.mktemp("images"), count=4, size=32, workers=1)


def test_every_world_with_its_captions(images):
    assert len(images) == 4 * len(worlds()) == 24
    fixed = [scenes.PROMPTS[worlds()[world]] for world in images.world_of]
    same = [caption == prompt for caption, prompt in zip(images.captions, fixed, strict=True)]
    assert 0.2 < np.mean(same) < 0.8
    assert all(-1 <= images.image(k).min() and images.image(k).max() <= 1 for k in range(24))


def test_images_are_the_renderers_and_no_scene_is_seen_twice(images):
    task, domain = worlds()[1]
    first = images.world_of.index(1)
    expected = scenes.render(task, domain, captioned_scenes.WORLD_SEED, 1, 32)  # domain B has the odd scenes
    assert domain == "b" and torch.equal(images.image(first), expected)


def test_a_finished_part_is_not_rendered_again(tmp_path, monkeypatch):
    render_scenes(tmp_path, count=1, size=32, workers=1)
    gone = next(tmp_path.rglob("horse_zebra-b*.npy"))
    gone.unlink()
    done = []
    real = captioned_scenes._render_part
    monkeypatch.setattr(captioned_scenes, "_render_part", lambda job: done.append(job.path) or real(job))
    render_scenes(tmp_path, count=1, size=32, workers=1)
    assert done == [gone]


def test_another_renderer_version_is_another_cache(tmp_path, monkeypatch):
    render_scenes(tmp_path, count=1, size=32, workers=1)
    monkeypatch.setattr(captioned_scenes.scenes, "RENDERER_VERSION", 0)
    render_scenes(tmp_path, count=1, size=32, workers=1)
    assert len(list(tmp_path.iterdir())) == 2


def test_crops_first_then_whole_images(images):
    batches = ImageBatches(images, 8, crop=16, crop_share=0.5, contour_share=0.0, steps=4, seed=0)
    assert [batches[step]["image"].shape for step in range(4)] == [(8, 3, 16, 16)] * 2 + [(2, 3, 32, 32)] * 2
    assert torch.equal(batches[1]["image"], batches[1]["image"])


def test_contours_replace_images(images):
    options = {"crop": 32, "crop_share": 1.0, "steps": 2, "seed": 0}
    lines = ImageBatches(images, 8, contour_share=1.0, **options)[0]["image"]
    assert set(lines.unique().tolist()) <= {-1.0, 1.0}
    plain = ImageBatches(images, 8, contour_share=0.0, **options)[0]["image"]
    assert len(plain.unique()) > 10


def test_each_epoch_shows_every_latent_once():
    latents = np.arange(12, dtype=np.float16).reshape(6, 2, 1, 1)
    batches = LatentBatches(latents, torch.arange(6)[:, None], 2, steps=6, seed=0)
    seen = torch.cat([batches[step]["tokens"][:, 0] for step in range(3)])
    assert sorted(seen.tolist()) == list(range(6))
    batch = batches[4]
    assert torch.equal(batch["latent"][:, 0, 0, 0], 2.0 * batch["tokens"][:, 0])


def test_pairs_stay_pairs():
    rows = torch.arange(5)
    pairs = {"noise": rows.half()[:, None], "target": rows.half()[:, None] * 2, "tokens": rows[:, None]}
    latents = LatentBatches(np.zeros((3, 1, 1, 1), np.float16), rows[:3, None], 1, 4, 0)
    batches = PairBatches(latents, pairs, 4)
    batch = batches[0]
    assert torch.equal(batch["pair_target"], 2 * batch["pair_noise"])
    assert torch.equal(batch["pair_tokens"].float(), batch["pair_noise"])


def test_a_loader_starts_anywhere():
    data = PretrainingData(LatentBatches(np.zeros((3, 1, 1, 1), np.float16), torch.zeros(3, 1).long(), 1, 5, 0))
    data.load_state_dict({"step": 3})
    loader = data.train_dataloader()
    assert len(loader) == 5 and [batch["step"] for batch in loader] == [3, 4]
