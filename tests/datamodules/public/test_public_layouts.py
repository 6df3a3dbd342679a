"""Miniature copies of the layouts in which the data sets are published."""

import json

import pytest

from datamodules import ClearFoggy, DayNight, HorseZebra
from tests.datamodules.miniature import domains, save

SMALL = {"resize": 16, "crop": 12, "eval_size": 16, "num_workers": 0}
pytestmark = pytest.mark.filterwarnings("ignore:.*has no test images")


def files(data, stage, letter):
    images = data.images[stage][letter]
    return {images.name(k) for k in range(len(images))}


def bdd100k(root, labels="bdd100k_labels_images_{}.json", count=24):
    """Pictures that take turns in time of day and weather; one without label, one label without picture."""
    times, weathers = ("daytime", "night", "dawn/dusk"), ("clear", "rainy")
    for split, number in (("train", count), ("val", 12)):
        frames = [{"name": "gone.jpg", "attributes": {"timeofday": "night", "weather": "clear"}}]
        for k in range(number):
            name = f"{split}{k:02d}.jpg"
            save(root / "images" / "100k" / split / name, shade=k)
            attributes = {"timeofday": times[k % 3], "weather": weathers[k % 2], "scene": "highway"}
            frames.append({"name": name, "attributes": attributes, "labels": []})
        save(root / "images" / "100k" / split / "unlabelled.jpg")
        path = root / "labels" / labels.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(frames))
    save(root / "images" / "100k" / "test" / "x.jpg")


def dense(root, count=14):
    for k in range(count + 6):
        save(root / "cam_stereo_left_lut" / f"2018-02-06_14-24-41_{k:05d}.png", shade=k)
    (root / "splits").mkdir()
    fog = [f"2018-02-06_14-24-41,{k:05d}" for k in range(count)]
    (root / "splits" / "dense_fog_day.txt").write_text("\n".join([*fog, "2019-09-11_00-00-00,00001"]) + "\n")
    (root / "splits" / "clear_day.txt").write_text("2018-02-06_14-24-41,00015\n")


@pytest.mark.parametrize("labels", ["bdd100k_labels_images_{}.json", "det_20/det_{}.json"])
@pytest.mark.parametrize("inner", ["bdd100k", ""])
def test_day_and_night_are_selected_by_their_label(labels, inner, tmp_path):
    bdd100k(tmp_path / inner, labels, count=30)
    data = DayNight(root=str(tmp_path), **SMALL)
    day, night = ({f"train/train{k:02d}.jpg" for k in range(first, 30, 3)} for first in (0, 1))
    assert files(data, "train", "a") | files(data, "validate", "a") == day
    assert files(data, "train", "b") | files(data, "validate", "b") == night
    assert not files(data, "train", "a") & files(data, "validate", "a")
    assert files(data, "test", "b") == {f"val/val{k:02d}.jpg" for k in range(1, 12, 3)}
    assert not data.test_is_validation
    assert data.prompts["a2b"] == "driving in the night"


def test_labels_are_read_once_until_they_change(tmp_path, monkeypatch):
    bdd100k(tmp_path, count=30)
    first = DayNight(root=str(tmp_path), **SMALL)
    path = tmp_path / "labels" / "bdd100k_labels_images_train.json"
    read, original = [], json.loads
    monkeypatch.setattr("datamodules.public.bdd100k.json.loads", lambda text: read.append(text) or original(text))
    assert files(DayNight(root=str(tmp_path), **SMALL), "train", "a") == files(first, "train", "a")
    assert path.read_text() not in read
    path.write_text(path.read_text().replace("dawn/dusk", "night"))
    assert len(files(DayNight(root=str(tmp_path), **SMALL), "train", "b")) > len(files(first, "train", "b"))
    assert path.read_text() in read


def test_clear_days_against_dense_fog(tmp_path):
    bdd100k(tmp_path / "bdd100k", count=48)
    dense(tmp_path / "SeeingThroughFog")
    data = ClearFoggy(root=str(tmp_path), **SMALL)
    clear = files(data, "train", "a") | files(data, "validate", "a")
    assert clear == {f"train/train{k:02d}.jpg" for k in range(0, 48, 6)}
    parts = [files(data, stage, "b") for stage in ("train", "validate", "test")]
    assert [len(part) for part in parts] == [6, 4, 4]
    assert set.union(*parts) == {f"2018-02-06_14-24-41_{k:05d}.png" for k in range(14)}


def test_horses_and_zebras_lie_in_the_archives_folders(tmp_path):
    domains(tmp_path / "horse2zebra", trainA=9, trainB=8, testA=2, testB=3)
    for root in (tmp_path, tmp_path / "horse2zebra"):
        data = HorseZebra(root=str(root), **SMALL)
        assert (len(files(data, "train", "a")), len(files(data, "test", "b"))) == (5, 3)
        assert data.prompts == {"a2b": "picture of a zebra", "b2a": "picture of a horse"}


def test_what_is_missing_of_a_public_set_is_named(tmp_path):
    bdd100k(tmp_path / "bdd100k", count=48)
    with pytest.raises(FileNotFoundError, match=r"SeeingThroughFog/cam_stereo_left_lut.*make data.*dense"):
        ClearFoggy(root=str(tmp_path), **SMALL)
    dense(tmp_path / "dense")
    (tmp_path / "dense" / "splits" / "dense_fog_day.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"splits/dense_fog_day\.txt"):
        ClearFoggy(root=str(tmp_path), **SMALL)
    labels = tmp_path / "bdd100k" / "labels" / "bdd100k_labels_images_train.json"
    labels.write_text("{}")
    with pytest.raises(FileNotFoundError, match="labelled timeofday: daytime"):
        DayNight(root=str(tmp_path), **SMALL)
    labels.write_text("[1]")
    with pytest.raises(ValueError, match="not a BDD100K label file"):
        DayNight(root=str(tmp_path), **SMALL)
    labels.unlink()
    with pytest.raises(FileNotFoundError, match=r"bdd100k_labels_images_train\.json.*make data.*bdd100k"):
        DayNight(root=str(tmp_path), **SMALL)
