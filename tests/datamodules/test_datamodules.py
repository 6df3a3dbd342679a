import json
import os
import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules import ClearFoggy, EdgeToImage, HorseZebra, PairedImages, SketchToImage, UnpairedImages
from datamodules.files.captions import read_captions
from datamodules.files.edits import read_edits
from datamodules.files.images import FileImages
from datamodules.files.layouts import read_prompt
from datamodules.samples import EvaluationImages
from datamodules.sampling import EpochSampler, ShapeBatches
from datamodules.scenes import TASKS, render
from images.headers import check_headers
from images.line_drawings import canny_edges, sketch_lines
from images.reading import read_image
from tests.datamodules.miniature import domains, save

SMALL = {"resize": 16, "crop": 12, "eval_size": 16, "num_workers": 0}
SCENES = {**SMALL, "train_scenes": 6, "val_scenes": 3, "test_scenes": 2}
pytestmark = pytest.mark.filterwarnings("ignore:.*has no test images")


def as_rank(data, rank, world_size, overfit_batches=0):
    data.trainer = SimpleNamespace(
        global_rank=rank, world_size=world_size, current_epoch=0, overfit_batches=overfit_batches
    )
    return data


def epoch(loader, number=0):
    loader.batch_sampler.sampler.set_epoch(number)
    return list(loader)


def names(loaders):
    return sorted(name for loader in loaders for batch in loader for name in batch.names)


def test_two_ranks_see_together_what_one_sees(tmp_path):
    domains(tmp_path, train_A=11, train_B=9)
    alone = epoch(as_rank(UnpairedImages(root=str(tmp_path), batch_size=2, **SMALL), 0, 1).train_dataloader())
    pair = [as_rank(UnpairedImages(root=str(tmp_path), batch_size=1, **SMALL), rank, 2) for rank in range(2)]
    shares = [epoch(data.train_dataloader()) for data in pair]
    assert len(alone) == len(shares[0]) == len(shares[1]) == 3
    for batch, left, right in zip(alone, *shares, strict=True):
        for field in ("index", "seed", "real_a", "real_b"):
            joined = torch.cat([getattr(left, field), getattr(right, field)])
            assert torch.equal(getattr(batch, field), joined)


def test_every_rank_gets_as_many_full_batches():
    for length in (1, 3, 7, 20):
        shares = [list(EpochSampler(length, 2, 0, rank, 3)) for rank in range(3)]
        assert {len(share) for share in shares} == {2 * max(1, length // 6)}
        if length >= 6:
            indices = [index for share in shares for _, index in share]
            assert len(set(indices)) == len(indices)


def test_a_sample_depends_on_seed_epoch_and_index_only(tmp_path):
    domains(tmp_path, train_A=8, train_B=30)
    data = UnpairedImages(root=str(tmp_path), **SMALL)
    samples = data.training_set()
    assert len(samples) == 26
    first = samples[3, 5]
    torch.rand(7)
    again = pickle.loads(pickle.dumps(samples))[3, 5]  # as a worker process gets it
    assert torch.equal(first["real_a"], again["real_a"])
    assert first["seed"] == again["seed"]
    seeds = {samples[e, i]["seed"] for e in range(3) for i in range(3)}
    partners = {samples[e, 5]["name_b"] for e in range(12)}
    assert len(seeds) == 9
    assert len(partners) > 5
    other = UnpairedImages(root=str(tmp_path), seed=1, **SMALL).training_set()
    assert other[3, 5]["seed"] != first["seed"]


def test_loaders_leave_the_training_generator_alone(tmp_path):
    data = HorseZebra(**SCENES)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for loader in (data.train_dataloader(), *data.val_dataloader(), data.reference_dataloader("a2b", "test")):
        next(iter(loader))
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_images_are_whole_grouped_by_shape_and_not_repeated(tmp_path):
    domains(tmp_path, train_A=2, train_B=2, val_B=3)
    for k, size in enumerate([(32, 16), (16, 40), (64, 32), (20, 20), (16, 8), (33, 16)]):
        save(tmp_path / "val_A" / f"{k}.png", shade=k, size=size)
    data = UnpairedImages(root=str(tmp_path), eval_batch_size=2, **SMALL)
    a, b = data.val_dataloader()
    batches = list(a)
    assert sorted(tuple(batch.real.shape) for batch in batches) == [
        (1, 3, 16, 16),
        (1, 3, 16, 32),
        (1, 3, 16, 33),
        (1, 3, 40, 16),
        (2, 3, 16, 32),
    ]
    assert {batch.direction for batch in a} == {"a2b"}
    assert {batch.direction for batch in b} == {"b2a"}
    assert names([a]) == [f"{k}.png" for k in range(6)]
    for batch in batches:
        for index, name, image in zip(batch.index.tolist(), batch.names, batch.real, strict=True):
            assert name == f"{index}.png"
            if index == 0:
                assert np.array_equal(image, read_image(tmp_path / "val_A" / name))


def test_ranks_share_evaluation_images_without_padding(tmp_path):
    shapes = [(8, 8), (8, 9), (8, 8)]
    for world_size in (1, 2, 3):
        shares = [list(ShapeBatches(shapes, 2, rank, world_size)) for rank in range(world_size)]
        assert sorted(index for share in shares for batch in share for index in batch) == [0, 1, 2]


def test_a_rank_beyond_the_images_repeats_one():
    """Without a batch Lightning would skip its evaluation, and the other ranks would wait for it."""
    shapes = [(8, 8), (8, 9), (8, 8)]
    assert [list(ShapeBatches(shapes, 2, rank, 8)) for rank in range(8)] == [[[rank % 3]] for rank in range(8)]


def test_spawned_workers_get_no_trainer(tmp_path):
    domains(tmp_path / "unpaired", train_A=6, train_B=6)
    domains(tmp_path / "photographs", train=6, test=2)
    for data in (
        UnpairedImages(root=str(tmp_path / "unpaired"), **SMALL),
        PairedImages(root=str(tmp_path / "unpaired"), **SMALL),
        EdgeToImage(root=str(tmp_path / "photographs"), **SMALL),
        HorseZebra(**SCENES),
    ):
        as_rank(data, 0, 1).trainer.model = lambda: "cannot be pickled"
        for loader in (data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()):
            pickle.dumps((loader.dataset, loader.collate_fn))


def test_overfitting_sees_the_same_batches_in_every_epoch(tmp_path):
    domains(tmp_path, train_A=8, train_B=8)
    data = UnpairedImages(root=str(tmp_path), **SMALL)
    for fraction, same in ((0, False), (2, True)):
        loader = as_rank(data, 0, 1, fraction).train_dataloader()
        first, second = (epoch(loader, number) for number in (0, 1))
        assert all(torch.equal(a.real_a, b.real_a) for a, b in zip(first, second, strict=True)) is same


def test_reference_is_the_whole_target_domain(tmp_path):
    domains(tmp_path, train_A=2, train_B=2, val_A=3, val_B=5, test_A=4, test_B=6)
    data = UnpairedImages(root=str(tmp_path), **SMALL)
    count = {d: len(names([data.reference_dataloader(d, s)])) for d in ("a2b", "b2a") for s in ("test",)}
    assert count == {"a2b": 6, "b2a": 4}
    assert len(names([data.reference_dataloader("a2b", "validate")])) == 5
    shares = [len(names([as_rank(data, r, 2).reference_dataloader("a2b", "validate")])) for r in range(2)]
    assert shares == [3, 2]


def test_names_that_are_no_utf8_have_a_place_in_the_protocol(tmp_path):
    domains(tmp_path, train_A=6, train_B=6)
    os.rename(tmp_path / "train_A" / "000.png", os.fsencode(tmp_path) + b"/train_A/\xe4.png")
    data = UnpairedImages(root=str(tmp_path), **SMALL)
    path = tmp_path / "train_A" / os.fsdecode(b"\xe4.png")
    files = FileImages([path], path.parent, check_headers([path]))
    assert len(data.images["train"]["a"]) + len(data.images["validate"]["a"]) == 6
    assert len(EvaluationImages(files, 16).fingerprint()) == 12


def test_held_out_images_do_not_train(tmp_path):
    domains(tmp_path, train_A=50, train_B=9)
    data = UnpairedImages(root=str(tmp_path), **SMALL)
    for direction, letter, count in (("a2b", "a", 5), ("b2a", "b", 4)):
        held_out = set(names([data._evaluation_loader(data.evaluation_set(direction, "validate"), direction)]))
        trained = {data.images["train"][letter].name(k) for k in range(len(data.images["train"][letter]))}
        assert len(held_out) == count
        assert not held_out & trained
    again = UnpairedImages(root=str(tmp_path), **SMALL)
    assert names(again.val_dataloader()) == names(data.val_dataloader())


def test_without_test_images_validation_stands_in_and_says_so(tmp_path):
    domains(tmp_path, train_A=9, train_B=9)
    with pytest.warns(UserWarning, match="train_A has no test images"):
        data = UnpairedImages(root=str(tmp_path), **SMALL)
    assert data.test_is_validation
    assert "test is validation" in data.description
    assert names(data.test_dataloader()) == names(data.val_dataloader())
    domains(tmp_path, test_A=1, test_B=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not UnpairedImages(root=str(tmp_path), **SMALL).test_is_validation


def test_prompts_come_from_argument_file_or_class(tmp_path):
    domains(tmp_path, trainA=6, trainB=6)
    assert ClearFoggy(root=str(tmp_path), **SMALL).prompts == {
        "a2b": "driving in dense fog",
        "b2a": "driving on a clear day",
    }
    (tmp_path / "fixed_prompt_a.txt").write_text(" a sunny\nroad \n")
    assert ClearFoggy(root=str(tmp_path), **SMALL).prompts["b2a"] == "a sunny road"
    assert ClearFoggy(root=str(tmp_path), prompt_a="mine", **SMALL).prompts["b2a"] == "mine"


def test_pairs_share_crop_and_flip(tmp_path):
    for k in range(6):
        for side in "AB":
            save(tmp_path / f"train_{side}" / f"sub{k}.png", shade=k, size=(40, 24))
    data = PairedImages(root=str(tmp_path), **SMALL)
    for batch in epoch(data.train_dataloader()):
        assert torch.equal(batch.real_a, batch.real_b)
        assert batch.strength is None
    (loader,) = data.val_dataloader()
    for batch in loader:
        assert torch.equal(batch.real, batch.truth)
        assert batch.captions == ["a photograph"] * len(batch.names)


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv"])
def test_captions_follow_their_picture(suffix, tmp_path):
    domains(tmp_path, train_A=8, train_B=8)
    captions = {f"{k:03d}.png": f'number {k}, "quoted"' for k in range(7)}
    lines = [{"file_name": name, "text": caption} for name, caption in captions.items()]
    quoted = [f'{name},"{caption.replace(chr(34), chr(34) * 2)}"' for name, caption in captions.items()]
    content = {
        "json": json.dumps(captions),
        "jsonl": "\n".join(map(json.dumps, lines)) + "\n",
        "csv": "\n".join(["image,caption", *quoted]),
    }
    (tmp_path / f"train_prompts.{suffix}").write_text(content[suffix])
    data = PairedImages(root=str(tmp_path), caption="some picture", **SMALL)
    seen = {}
    for batch in [*epoch(data.train_dataloader()), *data.val_dataloader()[0]]:
        seen |= dict(zip(batch.names, batch.captions, strict=True))
    assert seen == {**captions, "007.png": "some picture"}


def test_captions_that_fit_no_picture_are_refused(tmp_path):
    domains(tmp_path, train_A=8, train_B=8)
    (tmp_path / "train_prompts.json").write_text('{"other.png": "x"}')
    with pytest.raises(ValueError, match=r"train_prompts.*'other\.png'"):
        PairedImages(root=str(tmp_path), **SMALL)
    (tmp_path / "train_prompts.json").write_text('["x"]')
    with pytest.raises(ValueError, match=r"train_prompts\.json does not hold captions"):
        PairedImages(root=str(tmp_path), **SMALL)


def test_lines_of_json_may_hold_the_line_separators_of_unicode(tmp_path):
    text = json.dumps({"file_name": "a.png", "caption": "a street\u2028at\x85night"}, ensure_ascii=False)
    (tmp_path / "train_prompts.jsonl").write_text(f"{text}\n", encoding="utf-8")
    assert read_captions(tmp_path, "train") == {"a.png": "a street\u2028at\x85night"}


@pytest.mark.parametrize(
    ("name", "reading"),
    [
        ("train_prompts.json", lambda root: read_captions(root, "train")),
        ("fixed_prompt_a.txt", lambda root: read_prompt(root, "a")),
        ("metadata.jsonl", read_edits),
    ],
)
def test_texts_that_are_not_utf_8_are_named(tmp_path, name, reading):
    (tmp_path / name).write_bytes("a clear day".encode("utf-16"))
    with pytest.raises(ValueError, match=rf"{name} is not UTF-8 \(at byte 0\): save it as UTF-8"):
        reading(tmp_path)


def test_photographs_of_two_splits_may_have_equal_names(tmp_path):
    domains(tmp_path, train=6, test=2)
    for split in ("train", "test"):
        captions = {f"{k:03d}.png": f"{split} {k}" for k in range(6)}
        (tmp_path / f"{split}_prompts.json").write_text(json.dumps(captions))
    data = EdgeToImage(root=str(tmp_path), **SMALL)
    for stage, captions in data.captions.items():
        expected = [data.targets[stage].name(k).removesuffix(".png").split("/") for k in range(len(captions))]
        assert captions == [f"{split} {int(number)}" for split, number in expected]
    (tmp_path / "test_prompts.json").unlink()
    assert EdgeToImage(root=str(tmp_path), **SMALL).captions["test"] == ["a photograph"] * 2
    (tmp_path / "test_prompts.json").write_text('{"other.png": "x"}')
    with pytest.raises(ValueError, match=r"test_prompts.*'other\.png'"):
        EdgeToImage(root=str(tmp_path), **SMALL)


def test_photographs_kept_back_in_a_folder_do_not_train(tmp_path):
    """Nor what their captions say, nor under another name."""
    domains(tmp_path, **{".": 12, "test": 3})
    (tmp_path / "latest").symlink_to(tmp_path / "test")
    (tmp_path / "test_prompts.json").write_text(json.dumps({f"{k:03d}.png": f"test {k}" for k in range(3)}))
    data = EdgeToImage(root=str(tmp_path), **SMALL)
    found = {stage: {images.name(k) for k in range(len(images))} for stage, images in data.targets.items()}
    assert found["test"] == {f"test/{k:03d}.png" for k in range(3)}
    assert len(found["train"] | found["validate"]) == 12
    assert not found["test"] & (found["train"] | found["validate"])
    assert data.captions["test"] == ["test 0", "test 1", "test 2"]
    assert set(data.captions["train"] + data.captions["validate"]) == {"a photograph"}


@pytest.mark.parametrize("kind, lines", [(EdgeToImage, canny_edges), (SketchToImage, sketch_lines)])
@pytest.mark.parametrize("folders", [("train", "test"), ("",), ("one", "two/three")])
def test_lines_are_computed_from_photographs(kind, lines, folders, tmp_path):
    for folder in folders:
        domains(tmp_path / folder, **{"": 10} if folder == "" else {"sub": 10})
    data = kind(root=str(tmp_path), **SMALL)
    for batch in epoch(data.train_dataloader()):
        assert np.array_equal(batch.real_a[0], lines(batch.real_b[0]))
    for batch in data.test_dataloader()[0]:
        assert np.array_equal(batch.real[0], lines(batch.truth[0]))
    splits = [set(map(data.targets[stage].name, range(len(data.targets[stage])))) for stage in data.targets]
    assert not splits[0] & splits[1]
    assert not splits[0] & splits[2]
    assert data.preprocessing["preprocess"] == {"EdgeToImage": "canny", "SketchToImage": "sketch"}[kind.__name__]


def test_pairs_of_the_users_own_are_not_preprocessed(tmp_path):
    domains(tmp_path, train_A=6, train_B=6)
    data = EdgeToImage(root=str(tmp_path), **SMALL)
    assert data.preprocessing["preprocess"] == "none"
    assert (epoch(data.train_dataloader())[0].real_a.unique().numel()) > 2


def test_strength_is_drawn_per_sample_and_epoch():
    data = SketchToImage(batch_size=3, **SCENES)
    strengths = torch.cat([batch.strength for number in range(4) for batch in epoch(data.train_dataloader(), number)])
    assert strengths.unique().numel() == 24
    assert 0 <= strengths.min() < 0.3 < 0.7 < strengths.max() <= 1
    assert SketchToImage(stochastic=False, **SCENES).training_set()[0, 0]["strength"] is None


@pytest.mark.parametrize("task", TASKS)
def test_scenes_are_seeded_twins(task):
    day, night = (render(task, domain, 0, 5, 48) for domain in "ab")
    assert torch.equal(day, render(task, "a", 0, 5, 48))
    assert (day - night).abs().mean() > 0.01
    assert not torch.equal(day, render(task, "a", 0, 6, 48))
    assert not torch.equal(day, render(task, "a", 1, 5, 48))
    assert day.abs().max() <= 1


def test_fog_hides_what_is_far():
    near = far = 0.0
    for index in range(10):
        clear, foggy = (render("clear_foggy", domain, 0, index, 64) for domain in "ab")
        loss = (foggy - foggy.mean((1, 2), keepdim=True)).abs() - (clear - clear.mean((1, 2), keepdim=True)).abs()
        near, far = near + loss[:, 60:].mean(), far + loss[:, 28:36].mean()
    assert far < near


def test_splits_share_no_scene_and_only_evaluation_shows_both_sides_of_one():
    data = HorseZebra(**SCENES)
    scenes = {
        stage: [{images.name(k).rpartition("/")[2] for k in range(len(images))} for images in pair.values()]
        for stage, pair in data.images.items()
    }
    assert [len(numbers) for pair in scenes.values() for numbers in pair] == [6, 6, 3, 3, 2, 2]
    assert scenes["validate"][0] == scenes["validate"][1]
    assert scenes["test"][0] == scenes["test"][1]
    apart = [*scenes["train"], scenes["validate"][0], scenes["test"][0]]
    assert len(set().union(*apart)) == sum(len(numbers) for numbers in apart)


@pytest.mark.parametrize("resize", [16, 20])
def test_truth_is_the_same_scene_in_the_other_domain(resize):
    """Drawn at the size of evaluation: recipes that enlarge for training are measured on the same pictures."""
    data = HorseZebra(**{**SCENES, "resize": resize})
    assert data.is_rendered
    assert data.has_truth
    assert data.description.startswith("twin world")
    for loader, letter in zip(data.test_dataloader(), "ab", strict=True):
        for batch in loader:
            number = int(batch.names[0].rpartition("/")[2])
            other = {"a": "b", "b": "a"}[letter]
            assert torch.equal(batch.real[0], render("horse_zebra", letter, 0, number, 16))
            assert torch.equal(batch.truth[0], render("horse_zebra", other, 0, number, 16))


@pytest.mark.parametrize("kind", [UnpairedImages, PairedImages])
def test_a_folder_is_needed_where_nothing_can_be_drawn(kind):
    with pytest.raises(ValueError, match="needs a folder of images"):
        kind()


def remove(path):
    for file in path.iterdir():
        file.unlink()
    return path


BAD = {
    "missing root": (lambda root: root / "nowhere", "No data folder .*nowhere"),
    "empty root": (lambda root: [(root / "x").mkdir(), root / "x"][1], "no folder train_A"),
    "a file": (lambda root: root / "train_A" / "000.png", "is a file"),
    "no domain folder": (lambda root: [remove(root / "train_B").rmdir(), root][1], r"no folder train_B \(or trainB\)"),
    "empty domain folder": (lambda root: [remove(root / "train_B"), root][1], "No images in .*train_B"),
    "empty test folder": (lambda root: [(root / "test_A").mkdir(), root][1], "No images in .*test_A"),
    "too few": (lambda root: [(root / "train_A" / f"00{k}.png").unlink() for k in range(5)] and root, "3 images"),
    "cut off": (
        lambda root: [
            (root / "train_A" / "003.png").write_bytes((root / "train_B" / "003.png").read_bytes()[:99]),
            root,
        ][1],
        r"train_A/003\.png \(",
    ),
    "empty prompt": (lambda root: [(root / "fixed_prompt_b.txt").touch(), root][1], r"fixed_prompt_b\.txt is empty"),
}


@pytest.mark.parametrize("breaks, says", BAD.values(), ids=BAD)
def test_what_cannot_be_used_is_named(breaks, says, tmp_path):
    root = breaks(domains(tmp_path, train_A=8, train_B=8))
    with pytest.raises((ValueError, FileNotFoundError), match=says) as error:
        UnpairedImages(root=str(root), **SMALL)
    assert len(str(error.value).splitlines()) <= 2


@pytest.mark.parametrize(
    "setting, says",
    [({"crop": 17}, "crop 17"), ({"batch_size": 0}, "batch_size"), ({"seed": -1}, "seed"), ({"num_workers": -1}, "-1")],
)
def test_settings_that_cannot_work_are_named(setting, says):
    with pytest.raises(ValueError, match=says):
        HorseZebra(**{**SCENES, **setting})


def test_pairs_without_partner_are_named(tmp_path):
    domains(tmp_path, train_A=8, train_B=9)
    with pytest.raises(ValueError, match=r"1 images of .*: train_B/008"):
        PairedImages(root=str(tmp_path), **SMALL)
    save(tmp_path / "train_A" / "008.jpg", size=(24, 24))
    with pytest.raises(ValueError, match=r"one shape.*008\.jpg \(24 x 24\) and .*008\.png \(24 x 16\)"):
        PairedImages(root=str(tmp_path), **SMALL)
    (tmp_path / "train_A" / "008.jpg").rename(tmp_path / "train_A" / "007.jpg")
    with pytest.raises(ValueError, match="have one name"):
        PairedImages(root=str(tmp_path), **SMALL)
