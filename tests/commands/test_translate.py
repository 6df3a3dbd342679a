"""Translation from the command line: names, sizes, transparency, repeatability, and what bad input gets."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from commands.translate import main
from images.line_drawings import canny_edges
from images.ranges import to_pixels
from images.reading import read_image
from images.resizing import resize_short_side
from inference.folder import Task, batches
from inference.high_resolution import Layout
from inference.jobs import RECORD
from networks import OneStepGenerator, load_generator
from networks.checkpoints.adapter import save_adapter


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ONE_STEP_CACHE", str(tmp_path / "cache"))


def pixels(height, width, channels=3, seed=0, dtype=np.uint8):
    # smooth, so that resizing and compression leave a picture
    draw = np.random.default_rng(seed)
    coarse = draw.uniform(0, np.iinfo(dtype).max, (4, 4, channels)).astype(np.float32)
    return (
        cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        .reshape(height, width, channels)
        .astype(dtype)
    )


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(path)
    return path


def run(adapter, source, target, *more):
    return main(["--ckpt", str(adapter), "--in", str(source), "--out", str(target), "--device", "cpu", *more])


def content(folder):
    """The images of a folder by name, without the record beside them."""
    files = [p for p in sorted(Path(folder).rglob("*")) if p.is_file() and p.name != RECORD]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "photos"
    save(source / "a.jpg", pixels(24, 40, seed=1))
    save(source / "deep" / "er" / "a.png", pixels(24, 40, seed=2))
    save(source / "b.with.dots.png", pixels(17, 9, seed=3))
    save(source / "grey.png", pixels(16, 16, channels=1, seed=4))
    save(source / "Deep.PNG", pixels(24, 40, seed=5))
    (source / "notes.txt").write_text("no picture")
    return source


def test_folder_keeps_names_sub_folders_and_sizes(adapter, folder, tmp_path, capsys):
    assert run(adapter, folder, tmp_path / "out") == 0
    names = {"a.png", "deep/er/a.png", "b.with.dots.png", "grey.png", "Deep.png"}
    assert set(content(tmp_path / "out")) == names
    for source in folder.rglob("*.*g"):
        target = (tmp_path / "out" / source.relative_to(folder)).with_suffix(".png")
        assert Image.open(target).size == Image.open(source).size and Image.open(target).mode == "RGB"
    printed = capsys.readouterr()
    assert "Direction a2b, prompt 'driving in the night'" in printed.out
    assert "Resolution: direct, 5 images" in printed.out
    assert "Computed by: torch in float32 on cpu" in printed.out
    assert "Base: " in printed.out and "5/5" in printed.err


def test_writes_what_the_generator_gives(adapter, folder, tmp_path):
    assert run(adapter, folder, tmp_path / "out", "--direction", "b2a", "--prompt", "driving in dense fog") == 0
    generator = load_generator(adapter)
    for name in ("a.jpg", "b.with.dots.png"):
        image = torch.from_numpy(read_image(folder / name))[None]
        expected = to_pixels(generator.translate(image, "driving in dense fog", "b2a")[0]).astype(int)
        written = np.asarray(Image.open((tmp_path / "out" / name).with_suffix(".png"))).astype(int)
        assert np.abs(expected - written).max() <= 1, "merging moves the last bits only"
        assert np.abs(written - to_pixels(image[0])).mean() > 5, "nothing was translated"


def test_same_bytes_twice_one_by_one_and_from_a_folder(adapter, folder, tmp_path):
    for more in ([], ["--strength", "0.4", "--seed", "3"]):
        assert run(adapter, folder, tmp_path / "once", *more) == 0
        assert run(adapter, folder, tmp_path / "twice", *more) == 0
        assert run(adapter, folder / "a.jpg", tmp_path / "alone.png", *more) == 0
        assert content(tmp_path / "once") == content(tmp_path / "twice")
        assert (tmp_path / "alone.png").read_bytes() == (tmp_path / "once" / "a.png").read_bytes()


def test_batches_hold_pictures_of_one_size():
    shapes = [(8, 9), (9, 8), (8, 9), (8, 9), (9, 8)]
    tasks = [
        Task(Path(name), Path(name), Layout("lift", (80, 80), shape), 6400)
        for name, shape in zip("abcde", shapes, strict=True)
    ]
    groups = [[task.source.name for task in group] for group in batches(tasks, 2, "cpu")]
    assert groups == [["a", "c"], ["d"], ["b", "e"]]
    assert [len(group) for group in batches(tasks, None, "cpu")] == [1] * 5
    assert [len(group) for group in batches(tasks, None, "cuda")] == [3, 2]


def test_batches_change_nothing(adapter, folder, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # upright it has another size than the pictures it seems to match
    Image.fromarray(pixels(24, 40)).save(folder / "phone.jpg", exif=exif)
    assert run(adapter, folder, tmp_path / "single", "--strength", "0.5") == 0
    assert run(adapter, folder, tmp_path / "batched", "--strength", "0.5", "--batch", "2") == 0
    for name in content(tmp_path / "single"):
        single, batched = (np.asarray(Image.open(tmp_path / kind / name)).astype(int) for kind in ("single", "batched"))
        assert np.abs(single - batched).max() <= 1


def test_strength_and_seed_matter_only_together(adapter, folder, tmp_path):
    results = {}
    for strength in ("1", "0.3"):
        for seed in ("0", "1"):
            target = tmp_path / f"{strength}_{seed}.png"
            assert run(adapter, folder / "a.jpg", target, "--strength", strength, "--seed", seed) == 0
            results[strength, seed] = target.read_bytes()
    assert results["1", "0"] == results["1", "1"]
    assert len(set(results.values())) == 3


def test_transparency_is_kept_and_resized_along(adapter, tmp_path):
    array = pixels(20, 36, channels=4, seed=6)
    array[:, :18, 3], array[:, 18:, 3] = 0, 255
    save(tmp_path / "logo.png", array)
    assert run(adapter, tmp_path / "logo.png", tmp_path / "same.png") == 0
    same = np.asarray(Image.open(tmp_path / "same.png"))
    assert np.array_equal(same[..., 3], array[..., 3])
    # Colours under full transparency are never seen, so they must not matter either.
    array[:, :18, :3] = 77
    save(tmp_path / "logo.png", array)
    assert run(adapter, tmp_path / "logo.png", tmp_path / "again.png") == 0
    assert np.array_equal(same, np.asarray(Image.open(tmp_path / "again.png")))
    assert run(adapter, tmp_path / "logo.png", tmp_path / "half.png", "--size", "10") == 0
    half = np.asarray(Image.open(tmp_path / "half.png"))
    assert half.shape == (10, 18, 4) and half[5, 2, 3] == 0 and half[5, -3, 3] == 255


def test_sixteen_bits_are_not_cut_before_the_network(adapter, tmp_path):
    deep = pixels(16, 24, seed=7, dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep[..., ::-1])
    assert run(adapter, tmp_path / "deep.png", tmp_path / "out.png") == 0
    image = torch.from_numpy(deep.astype(np.float32) / 32767.5 - 1).permute(2, 0, 1)
    expected = to_pixels(load_generator(adapter).translate(image[None])[0]).astype(int)
    assert np.abs(expected - np.asarray(Image.open(tmp_path / "out.png"))).max() <= 1


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (31, 8)])
def test_any_size_comes_back_as_it_went_in(adapter, tmp_path, shape):
    save(tmp_path / "odd.png", pixels(*shape))
    assert run(adapter, tmp_path / "odd.png", tmp_path / "out") == 0
    assert Image.open(tmp_path / "out" / "odd.png").size == shape[::-1]


def test_phone_pictures_come_out_upright(adapter, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(16, 32)).save(tmp_path / "phone.jpg", exif=exif)
    assert run(adapter, tmp_path / "phone.jpg", tmp_path / "phone.png") == 0
    assert Image.open(tmp_path / "phone.png").size == (16, 32)


def test_preprocess_draws_lines_first(adapter, tmp_path):
    photo = save(tmp_path / "photo.png", pixels(32, 32, seed=9))
    assert run(adapter, photo, tmp_path / "out.png", "--preprocess", "canny", "--size", "24") == 0
    edges = canny_edges(resize_short_side(read_image(photo), 24))
    expected = to_pixels(load_generator(adapter).translate(torch.from_numpy(edges)[None])[0]).astype(int)
    assert np.abs(expected - np.asarray(Image.open(tmp_path / "out.png"))).max() <= 1


def test_lines_instead_of_photographs_are_recalled(adapter, tmp_path, capsys):
    photo = save(tmp_path / "photo.png", pixels(16, 16))
    shutil.copytree(adapter, tmp_path / "edges")
    card = json.loads((tmp_path / "edges" / "adapter.json").read_text())
    card |= {"data": "twin world", "preprocessing": {"preprocess": "canny"}}
    (tmp_path / "edges" / "adapter.json").write_text(json.dumps(card))
    for more, expected in (([], True), (["--preprocess", "canny"], False)):
        assert run(tmp_path / "edges", photo, tmp_path / "out.png", *more) == 0
        printed = capsys.readouterr().out
        assert ("PREPROCESS=canny" in printed) is expected and "Trained on: twin world" in printed


def test_a_prompt_that_was_not_trained_gets_the_list_of_those_that_were(adapter, tmp_path, capsys):
    photo = save(tmp_path / "photo.png", pixels(16, 16))
    shutil.copytree(adapter, tmp_path / "edits")
    card = json.loads((tmp_path / "edits" / "adapter.json").read_text())
    (tmp_path / "edits" / "adapter.json").write_text(json.dumps(card | {"edits": ["make it night", "add fog"]}))
    listed = "That prompt was not trained, these were:\n  make it night\n  add fog\n"
    for prompt, expected in (("make it snow", True), ("add fog", False)):
        assert run(tmp_path / "edits", photo, tmp_path / "out.png", "--prompt", prompt) == 0
        assert (listed in capsys.readouterr().out) is expected


def refuses(capsys, words, adapter, source, target, *more):
    """Exit code 2, at most two lines that hold the words, nothing written."""
    before = content(target) if Path(target).is_dir() else Path(target).is_file() and Path(target).read_bytes()
    assert run(adapter, source, target, *more) == 2
    printed = capsys.readouterr()
    for word in words:
        assert word in printed.err
    assert len(printed.err.strip().splitlines()) <= 2 and "Traceback" not in printed.err
    after = content(target) if Path(target).is_dir() else Path(target).is_file() and Path(target).read_bytes()
    assert before == after


def test_bad_checkpoints_are_named(folder, tmp_path, capsys):
    """What is not there before anything else is looked for; what is in a file after all that needs no torch."""
    missing, out = tmp_path / "no_input", tmp_path / "out"
    refuses(capsys, ["runs/nowhere"], "runs/nowhere", missing, out)
    (tmp_path / "empty_run").mkdir()
    refuses(capsys, ["empty_run", "adapter.json"], tmp_path / "empty_run", missing, out)
    torch.save({"model": torch.zeros(1)}, tmp_path / "foreign.pkl")
    refuses(capsys, ["foreign.pkl", "state_dict_unet"], tmp_path / "foreign.pkl", folder, out)
    torch.save({"model": torch.zeros(1)}, tmp_path / "foreign.ckpt")
    refuses(capsys, ["foreign.ckpt"], tmp_path / "foreign.ckpt", folder, out)
    (tmp_path / "text.ckpt").write_text("hello")
    refuses(capsys, ["text.ckpt"], tmp_path / "text.ckpt", folder, out)


@pytest.mark.parametrize("name", ["evil.pkl", "evil.ckpt"])
def test_unsafe_pickles_are_refused(folder, tmp_path, capsys, name):
    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it_ran"),)

    torch.save({"state_dict": {}, "adapter": Runs()}, tmp_path / name)
    refuses(capsys, [name, "pickle"], tmp_path / name, folder, tmp_path / "out")
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--direction", "b2c"], ["b2c", "a2b and b2a"]),
        (["--strength", "1.5"], ["1.5", "[0, 1]"]),
        (["--strength", "nan"], ["nan"]),
        (["--preprocess", "hed"], ["hed", "canny", "sketch"]),
        (["--size", "0"], ["SIZE", "0"]),
        (["--batch", "-1"], ["BATCH", "-1"]),
        (["--precision", "float3"], ["precision", "float3", "float32"]),
        (["--precision", "int8"], ["int8", "float32"]),
        (["--device", "abacus"], ["abacus", "cpu"]),
        (["--base", "no/such/folder/at/all"], ["no/such/folder/at/all"]),
        (["--base", "poket"], ["poket"]),
    ],
)
def test_values_that_cannot_work_are_named_as_typed(adapter, folder, tmp_path, capsys, more, words):
    refuses(capsys, words, adapter, folder, tmp_path / "out", *more)


def test_misspelt_options_get_two_lines(adapter, folder, tmp_path, capsys):
    for more, word in ((["--strenght", "1"], "--strenght"), (["--size", "big"], "big")):
        with pytest.raises(SystemExit) as stopped:
            run(adapter, folder, tmp_path / "out", *more)
        printed = capsys.readouterr().err
        assert stopped.value.code == 2 and word in printed and len(printed.strip().splitlines()) == 2


def test_adapters_without_a_prompt_ask_for_one(adapter, folder, tmp_path, tiny_base, capsys):
    bare = OneStepGenerator(str(tiny_base), directions=["a2b"], rank_unet=1, rank_vae=1)
    save_adapter(bare, tmp_path / "bare")
    refuses(capsys, ["PROMPT="], tmp_path / "bare", folder, tmp_path / "out")


def test_input_that_is_missing_empty_or_no_picture_is_named(adapter, folder, tmp_path, capsys):
    out = tmp_path / "out"
    refuses(capsys, [str(tmp_path / "nowhere")], adapter, tmp_path / "nowhere", out)
    (tmp_path / "empty").mkdir()
    refuses(capsys, [str(tmp_path / "empty"), ".png", "a video, give the file"], adapter, tmp_path / "empty", out)
    refuses(capsys, ["notes.txt"], adapter, folder / "notes.txt", out)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 not much")
    refuses(capsys, ["broken.jpg"], adapter, folder / "broken.jpg", out)
    refuses(capsys, ["broken.jpg"], adapter, folder, out, "--strict", "1")


def test_a_truncated_picture_stops_a_strict_run_before_anything_is_written(adapter, folder, tmp_path, capsys):
    for name in ("cut.jpg", "cut.png"):
        whole = save(folder / name, pixels(64, 64)).read_bytes()
        (folder / name).write_bytes(whole[:-40])
        assert Image.open(folder / name).size == (64, 64), "its header alone is sound"
        refuses(capsys, [name], adapter, folder, tmp_path / "out", "--strict", "1")
        (folder / name).unlink()


def test_two_inputs_for_one_png_are_both_named(adapter, folder, tmp_path, capsys):
    save(folder / "a.bmp", pixels(8, 8))
    refuses(capsys, ["a.jpg", "a.bmp", "a.png"], adapter, folder, tmp_path / "out")


def test_a_tilde_that_the_shell_has_left_is_the_users_folder(adapter, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run(adapter, f"~/{folder.relative_to(tmp_path)}/grey.png", "~/out.png") == 0
    assert (tmp_path / "out.png").is_file()


def test_inputs_are_never_overwritten(adapter, folder, tmp_path, capsys):
    refuses(capsys, [str(folder)], adapter, folder, folder)
    refuses(capsys, [str(folder / "results")], adapter, folder, folder / "results")
    refuses(capsys, ["grey.png"], adapter, folder / "grey.png", folder / "grey.png")
    refuses(capsys, ["grey.png"], adapter, folder / "grey.png", folder)


def test_out_must_fit_in(adapter, folder, tmp_path, capsys):
    refuses(capsys, ["out.png", "folder"], adapter, folder, tmp_path / "out.png")
    for name in ("out.tif", "out.gif"):
        refuses(capsys, [name, "out.png"], adapter, folder / "a.jpg", tmp_path / name)
    refuses(capsys, ["out.mp4", "video"], adapter, folder / "a.jpg", tmp_path / "out.mp4")
    refuses(capsys, ["out.jpg", ".png"], adapter, folder / "a.jpg", tmp_path / "out.jpg", "--ext", "png")
    refuses(capsys, [".jpg", "16"], adapter, folder / "a.jpg", tmp_path / "out.jpg", "--depth", "16")
    (tmp_path / "taken").write_text("a file")
    refuses(capsys, ["taken"], adapter, folder, tmp_path / "taken")
    refuses(capsys, ["taken"], adapter, folder / "a.jpg", tmp_path / "taken" / "a.png")


def test_more_than_a_megapixel_for_the_network_asks_for_a_size(adapter, tmp_path, capsys):
    large = save(tmp_path / "large.png", np.zeros((1025, 1024, 3), np.uint8))
    refuses(capsys, ["large.png", "1024 x 1025", "512"], adapter, large, tmp_path / "out.png", "--resolution", "direct")
    assert run(adapter, large, tmp_path / "out.png", "--size", "16") == 0
    assert Image.open(tmp_path / "out.png").size == (16, 16)
