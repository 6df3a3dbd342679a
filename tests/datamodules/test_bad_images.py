"""Images that break after they were checked: a line that names the file, or another sample in their place."""

import warnings

import numpy as np
import pytest
import tifffile
import torch

from datamodules import ClearFoggy, PairedImages, UnpairedImages
from datamodules.bad_images import REDRAW, BadImageError
from datamodules.sampling import draws
from tests.datamodules.miniature import domains, save
from tests.datamodules.test_datamodules import SMALL, as_rank, epoch
from tests.datamodules.test_resume import SaveOnce, fit

pytestmark = pytest.mark.filterwarnings("ignore:.*has no test images", "ignore:.*Another sample is drawn")
COUNT = 200  # pairs


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def empty(path):
    path.write_bytes(b"")


def replace_by_a_folder(path):
    path.unlink()
    path.mkdir()


def nan_pixels(path):
    tifffile.imwrite(path, np.full((24, 16, 3), np.nan, np.float32), photometric="rgb")


def grey_nan_pixels(path):
    tifffile.imwrite(path, np.full((24, 16), np.nan, np.float32))


def another_shape(path):
    save(path, size=(40, 16))


def delete(path):
    path.unlink()


BREAKAGES = [truncate, empty, delete, replace_by_a_folder, nan_pixels, grey_nan_pixels, another_shape]


@pytest.mark.parametrize("damage", BREAKAGES)
@pytest.mark.parametrize("kind", [UnpairedImages, PairedImages])
def test_an_image_that_breaks_after_the_check_is_named_in_a_line(damage, kind, tmp_path):
    data = kind(root=str(domains(tmp_path, train_A=2, train_B=2, val_A=2, val_B=2)), **SMALL)
    for path in (tmp_path / "train_A" / "001.png", tmp_path / "val_A" / "001.png"):
        damage(path)
        with pytest.raises(BadImageError) as caught:
            data.training_set()[0, 1] if "train" in str(path) else data.evaluation_set("a2b", "validate")[1]
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


class NotFinite:
    """An image list of one's own, which is no folder of files."""

    folder = None

    def __init__(self, images):
        self.images, self.name, self.size = images, images.name, images.size

    def __len__(self):
        return len(self.images)

    def read(self, index):
        image = self.images.read(index)
        image[0, 0, 0] = float("inf")
        return image


def test_pixels_that_are_not_finite_are_named_whatever_read_them(tmp_path):
    data = UnpairedImages(root=str(domains(tmp_path, train_A=2, train_B=2, val_A=2, val_B=2)), **SMALL)
    data.images["train"]["b"] = NotFinite(data.images["train"]["b"])
    with pytest.raises(BadImageError, match=r"00\d\.png has pixels that are NaN or infinite"):
        data.training_set()[0, 0]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Two hundred pairs, of which one input is broken once they are listed."""
    root = domains(tmp_path_factory.mktemp("pairs"), train_A=COUNT, train_B=COUNT, val_A=2, val_B=2)
    return root, root / "train_A" / "007.png"


def listed(pairs, policy, kind=PairedImages, **settings):
    """A data module that listed the images before one of them broke."""
    root, broken = pairs
    save(broken, shade=7)
    data = kind(root=str(root), on_bad_image=policy, **{**SMALL, "batch_size": 4, **settings})
    truncate(broken)
    return data


def batches(data, number=0):
    return epoch(as_rank(data, 0, 1).train_dataloader(), number)


def test_another_sample_is_drawn_whole_by_seed_epoch_index_and_attempt(pairs):
    data = listed(pairs, "skip")
    seen = torch.cat([batch.index for batch in batches(data, 3)]).tolist()
    order = np.random.default_rng([0, 3]).permutation(COUNT).tolist()
    position = order.index(7)
    other = int(draws(0, 3, 7, REDRAW).integers(COUNT))
    assert [k for k in range(COUNT) if seen[k] != order[k]] == [position] and seen[position] == other
    batch = batches(data, 3)[position // 4]
    sample = data.training_set()[3, other]
    for name in ("real_a", "real_b"):
        assert torch.equal(getattr(batch, name)[position % 4], sample[name]), "both sides of the pair are the other's"
    assert batch.seed[position % 4] == sample["seed"] and batch.names[position % 4] == sample["name"]


@pytest.mark.parametrize("kind", [UnpairedImages, PairedImages])
def test_without_bad_images_the_policy_changes_nothing(kind, pairs):
    root, broken = pairs
    save(broken, shade=7)
    stop, skip = (kind(root=str(root), on_bad_image=policy, batch_size=4, **SMALL) for policy in ("stop", "skip"))
    for one, other in zip(batches(stop), batches(skip), strict=True):
        assert torch.equal(one.real_a, other.real_a) and torch.equal(one.real_b, other.real_b)
        assert torch.equal(one.seed, other.seed) and one.names == other.names
    assert not skip.bad_draws.found


def test_workers_and_ranks_draw_the_same_samples_and_count_together(pairs):
    alone = listed(pairs, "skip")
    expected = batches(alone)
    assert list(alone.bad_draws.counts().values()) == [1]
    workers = listed(pairs, "skip", num_workers=2)
    ranks = [as_rank(listed(pairs, "skip", batch_size=2), rank, 2) for rank in range(2)]
    shares = [epoch(data.train_dataloader()) for data in ranks]
    for batch, other, left, right in zip(expected, batches(workers), *shares, strict=True):
        assert torch.equal(batch.real_a, other.real_a) and torch.equal(batch.index, other.index)
        assert sorted(batch.index.tolist()) == sorted([*left.index.tolist(), *right.index.tolist()])
    assert workers.bad_draws.found == alone.bad_draws.found == ranks[0].bad_draws.found | ranks[1].bad_draws.found


def test_the_first_draw_of_a_bad_image_is_a_warning(pairs):
    data = listed(pairs, "skip")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        batches(data)
        batches(data, 1)
    assert len(said) == 1 and str(pairs[1]) in str(said[0].message)
    assert [*data.skipped_images().values()] == [2]


def test_more_than_a_hundredth_ends_training_with_the_names(pairs, tmp_path):
    root = domains(tmp_path, train_A=COUNT, train_B=COUNT, val_A=2, val_B=2)
    data = PairedImages(root=str(root), on_bad_image="skip", batch_size=4, **SMALL)
    for k in range(3):
        truncate(root / "train_A" / f"{k:03d}.png")
    with pytest.raises(ValueError, match=r"^3 of \d+ draws .* more than 1% .*") as caught:
        batches(data)
    assert all(f"{k:03d}.png" in str(caught.value) for k in range(3)) and "\n" not in str(caught.value)


def test_where_all_are_bad_training_ends(tmp_path):
    data = PairedImages(
        root=str(domains(tmp_path, train_A=3, train_B=3, val_A=2, val_B=2)), on_bad_image="skip", **SMALL
    )
    for path in tmp_path.glob("train_A/*.png"):
        truncate(path)
    with pytest.raises(BadImageError, match="Cannot read"):
        batches(data)


def test_evaluation_never_skips(tmp_path):
    root = domains(tmp_path, train_A=3, train_B=3, val_A=2, val_B=2)
    data = UnpairedImages(root=str(root), on_bad_image="skip", **SMALL)
    truncate(root / "val_A" / "000.png")
    with pytest.raises(BadImageError, match=r"val_A/000\.png"):
        list(as_rank(data, 0, 1).val_dataloader()[0])


def test_stop_is_the_default_and_another_word_is_refused(pairs):
    with pytest.raises(BadImageError, match=r"train_A/007\.png"):
        batches(listed(pairs, "stop"))
    with pytest.raises(ValueError, match="on_bad_image must be stop or skip, got 'ignore'"):
        ClearFoggy(on_bad_image="ignore", **SMALL)


def test_a_resumed_training_skips_the_same_and_lists_all(pairs, tmp_path):
    path = tmp_path / "x.ckpt"
    position = (
        np.random.default_rng([0, 0]).permutation(COUNT).tolist().index(7) // 4 + 1
    )  # batches, the bad one's included
    whole = listed(pairs, "skip")
    seen = fit(0, [SaveOnce("batch", position, path)], data=whole, max_epochs=2, limit_val_batches=0)
    rest = listed(pairs, "skip")
    resumed = fit(0, checkpoint=path, data=rest, max_epochs=2, limit_val_batches=0)
    assert resumed.seen == seen.seen[position:] and torch.equal(resumed.weight, seen.weight)
    assert rest.bad_draws.found == whole.bad_draws.found and len(whole.bad_draws.found) == 2
