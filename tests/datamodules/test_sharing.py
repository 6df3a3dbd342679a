"""Runs of a grid: fewer training images from the same data, and scenes that are drawn once for all of them."""

import json

import pytest
import torch

from datamodules import ClearFoggy, EdgeToImage, PairedImages, UnpairedImages
from datamodules.scenes import SceneImages
from tests.datamodules.miniature import domains, save

SMALL = {"resize": 16, "crop": 12, "eval_size": 16, "num_workers": 0}
pytestmark = pytest.mark.filterwarnings("ignore:.*has no test images")


def listed(images):
    return [images.name(k) for k in range(len(images))]


def test_a_limit_takes_some_training_images_and_leaves_the_evaluated_ones(tmp_path):
    domains(tmp_path, train_A=20, train_B=14, test_A=4, test_B=4)
    whole, some, fewer, other = (
        UnpairedImages(root=str(tmp_path), train_limit=limit, seed=seed, **SMALL)
        for limit, seed in ((None, 0), (6, 0), (3, 0), (6, 1))
    )
    assert [len(some.images["train"][d]) for d in "ab"] == [6, 6]
    for domain in "ab":
        kept = listed(some.images["train"][domain])
        assert set(kept) < set(listed(whole.images["train"][domain])) and kept == sorted(kept)
        assert set(listed(fewer.images["train"][domain])) < set(kept), "a smaller set is part of a larger one"
        for stage in ("validate", "test"):
            assert listed(some.images[stage][domain]) == listed(whole.images[stage][domain])
    assert listed(other.images["train"]["a"]) != listed(some.images["train"]["a"])
    assert "train 6 + 6" in some.description


def test_a_limit_keeps_pairs_and_captions_together(tmp_path):
    domains(tmp_path, train_A=12, train_B=12)
    (tmp_path / "train_prompts.json").write_text(json.dumps({f"{k:03d}.png": f"picture {k}" for k in range(12)}))
    data = PairedImages(root=str(tmp_path), train_limit=4, **SMALL)
    names = listed(data.targets["train"])
    assert listed(data.inputs["train"]) == names and len(names) == 4
    assert data.captions["train"] == [f"picture {int(name[:3])}" for name in names]


@pytest.mark.parametrize("kind", [ClearFoggy, EdgeToImage])
def test_a_limit_on_scenes_moves_no_other_split(kind):
    counts = {"train_scenes": 8, "val_scenes": 2, "test_scenes": 2}
    whole, some = (kind(train_limit=limit, **counts, **SMALL) for limit in (None, 3))
    assert len(some.training_set()) == 3 and "train 3" in some.description
    assert some.protocol("a2b", "test") == whole.protocol("a2b", "test")


def test_limits_that_cannot_be_kept_are_refused():
    with pytest.raises(ValueError, match="train_limit must be an integer of at least 1, or null, got 0"):
        ClearFoggy(train_limit=0, **SMALL)
    with pytest.raises(ValueError, match="train_limit is 9, but there are 8 training images"):
        ClearFoggy(train_limit=9, train_scenes=8, **SMALL)


def test_a_stamp_changes_with_the_pictures(tmp_path):
    domains(tmp_path, train_A=5, train_B=5, test_A=2, test_B=2)
    before = UnpairedImages(root=str(tmp_path), **SMALL).reference_stamp("a2b", "test")
    assert UnpairedImages(root=str(tmp_path), **SMALL).reference_stamp("a2b", "test") == before
    save(tmp_path / "test_B" / "000.png", shade=77)
    assert UnpairedImages(root=str(tmp_path), **SMALL).reference_stamp("a2b", "test") != before


def test_cached_scenes_are_rendered_once_and_are_the_same_bytes(tmp_path, monkeypatch):
    drawn = SceneImages("day_night", "b", 3, 5, 2, 32)
    kept = SceneImages("day_night", "b", 3, 5, 2, 32, str(tmp_path))
    fresh = [drawn.read(k) for k in range(2)]
    assert all(torch.equal(kept.read(k), fresh[k]) for k in range(2))
    monkeypatch.setattr(SceneImages, "_render", lambda self, index: pytest.fail("rendered again"))
    again = SceneImages("day_night", "b", 3, 6, 1, 32, str(tmp_path))
    assert torch.equal(again.read(0), fresh[1])
    assert len(list(tmp_path.rglob("*.png"))) == 2


@pytest.mark.parametrize("changes", [{"seed": 4}, {"size": 16}, {"domain": "a"}])
def test_cached_scenes_of_another_world_are_others(tmp_path, changes):
    words = {"task": "day_night", "domain": "b", "seed": 3, "first": 5, "count": 1, "size": 32}
    SceneImages(cache=str(tmp_path), **words).read(0)
    other = {**words, **changes}
    assert torch.equal(SceneImages(cache=str(tmp_path), **other).read(0), SceneImages(**other).read(0))
