"""The whole path through the commands: train, resume, translate, evaluate agree with each other."""

import json
import resource
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from commands import evaluate, resume, train, translate
from commands.cli.lightning_cli import TrainCLI
from images.writing import write_image
from networks import precision
from networks.checkpoints.adapter import load_trained
from networks.features import load_features

from .conftest import arguments, chosen


def same(a, b, path=""):
    """Bit-equality of nested states."""
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}/{k}")
    else:
        assert a == b, path


@pytest.mark.parametrize(
    ("stops", "accumulate", "large"),
    [((3, 6, 7), 1, False), pytest.param((3,), 2, True, marks=pytest.mark.long)],
)
def test_resume_equals_no_interruption(
    stops, accumulate, large, two_level_base, folder_of_two_domains, tmp_path, monkeypatch
):
    """Six images make an epoch: stopped within the first, at its end, within the second; or between two of a step.

    The latter also in the memory layout, and where the hardware has it in the precision, of large networks.
    """
    monkeypatch.setattr(precision, "LARGE", 0 if large else precision.LARGE)
    more = ("--trainer.val_check_interval=3", f"--model.init_args.accumulate={accumulate}", *chosen("min"))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    first, *later = (f"--model.init_args.max_images={images}" for images in (*stops, 9))
    assert train.main(arguments(two_level_base, folder_of_two_domains, whole, *more, later[-1])) == 0
    assert train.main(arguments(two_level_base, folder_of_two_domains, broken, *more, first)) == 0
    for end in later:
        assert resume.main([f"--run={broken}", end]) == 0
    a, b = (torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (whole, broken))
    for key in ("state_dict", "optimizer_states", "progress", "rng", "gradients"):
        same(a[key], b[key], key)
    assert bool(a["gradients"]) is (accumulate == 2)
    x, y = (json.loads((f / "metrics.json").read_text()) for f in (whole, broken))
    assert (x["a2b"], x["b2a"], x["images_seen"]) == (y["a2b"], y["b2a"], 9)
    assert x["best"] == y["best"] and x["best"]["checkpoint"] == "best-3.ckpt"
    for name in ("adapter.safetensors", "prompts.safetensors"):
        same(load_file(whole / "adapter" / name), load_file(broken / "adapter" / name))
    weights = [value for value in a["state_dict"].values() if value.ndim == 4 and min(value.shape[1:]) > 1]
    assert {value.is_contiguous(memory_format=torch.channels_last) for value in weights} == {large}


def test_two_folders_train_resume_and_evaluate(two_level_base, folder_of_two_domains, tmp_path, capsys):
    """Anywhere, read where they lie: what is held out of each is the same in every command, and never trains."""
    a, b = folder_of_two_domains / "train_A", folder_of_two_domains / "train_B"
    before = sorted(folder_of_two_domains.rglob("*"))
    run = tmp_path / "run"
    words = [word for word in arguments(two_level_base, "", run) if not word.startswith("--data=")]
    assert train.main([*words, f"--a={a}", f"--b={b}", "--model.init_args.max_images=3"]) == 0
    assert resume.main([f"--run={run}", "--model.init_args.max_images=4"]) == 0
    trained = json.loads((run / "metrics.json").read_text())
    splits = "clear and foggy, train 6 + 6, validate 4 + 4, test 4 + 4 (test is validation)"
    assert trained["data"] == f"{a} and {b}: {splits}"
    assert evaluate.main([f"--ckpt={run}", f"--out={tmp_path / 'again'}"]) == 0
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert again["data"] == trained["data"]
    assert again["a2b"]["fid"] == pytest.approx(trained["a2b"]["fid"], rel=1e-3)
    # another folder of the usual layout takes the place of both
    assert evaluate.main([f"--ckpt={run}", f"--data={folder_of_two_domains}", f"--out={tmp_path / 'other'}"]) == 0
    assert "test 5 + 5" in json.loads((tmp_path / "other" / "metrics.json").read_text())["data"]
    assert sorted(folder_of_two_domains.rglob("*")) == before
    capsys.readouterr()
    assert train.main([*words, f"--a={a}"]) == 2
    assert "B= is missing" in capsys.readouterr().err


def test_a_single_picture_of_validation_is_refused_before_training(
    two_level_base, folder_of_two_domains, tmp_path, capsys
):
    data = tmp_path / "data"
    shutil.copytree(folder_of_two_domains, data)
    for letter in "AB":
        write_image(data / f"val_{letter}" / "0.png", torch.zeros(3, 40, 40))
    assert train.main(arguments(two_level_base, data, tmp_path / "run")) == 2
    assert "1 images to translate in a2b and 1 to compare with, and val/fid_a2b" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_last_checkpoint_holds_the_alarms_count_of_its_own_validation(
    two_level_base, folder_of_two_domains, tmp_path
):
    more = ("--trainer.val_check_interval=1", "--model.init_args.max_images=2", "--collapse_alarm.diversity_floor=1e9")
    assert train.main(arguments(two_level_base, folder_of_two_domains, tmp_path / "run", *more)) == 0
    states = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    assert states["CollapseAlarm"]["below"]["mode_collapse_a2b"] == 2


def test_the_run_folder_is_complete(finished):
    files = {str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file()}
    assert {
        "config.yaml",
        "metrics.json",
        "checkpoints/last.ckpt",
        "adapter/adapter.json",
        "adapter/adapter.safetensors",
        "adapter/prompts.safetensors",
        "adapter/README.md",
    } <= files
    assert any(f.startswith("events.") for f in files)
    assert any(f.startswith("checkpoints/best-") for f in files)
    assert not [f for f in files if f.endswith(".part")]


def test_metrics_json_holds_what_was_promised(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    assert (metrics["images_seen"], metrics["batches"]) == (4, 4)
    assert metrics["wall_s"] >= metrics["seconds_per_batch"] * 4 * 0.9
    assert metrics["peak_memory_mb"] > 0
    assert metrics["data"].endswith("train 6 + 6, validate 4 + 4, test 5 + 5")
    saved = load_file(finished / "adapter" / "adapter.safetensors")
    assert metrics["trainable_parameters"] == sum(t.numel() for t in saved.values())
    for direction in ("a2b", "b2a"):
        block = metrics[direction]
        assert (block["n_real"], block["n_fake"]) == (5, 5)
        assert block["fid_features"] == block["structure_features"] == block["lpips_features"] == "random"
        assert block["features_seen_in_training"] == ["random"]
        for key in ("fid", "kid", "kid_std", "fid_floor", "structure", "identity_gap"):
            assert isinstance(block[key], float), key
        assert {"fid", "kid"} <= block["copy_input"].keys()
        assert block["protocol"]["split"] == "test" and block["protocol"]["translated"].startswith("5 images")
        assert (
            block["protocol"]["direction"] == direction
            and f"torch {torch.__version__.split('+')[0]}" in (block["protocol"]["versions"])
        )
        assert list(block["network_hashes"]) == ["random"]
    assert metrics["a2b"]["protocol"]["reference"] == metrics["b2a"]["protocol"]["translated"]


def test_the_best_state_is_measured_beside_the_last(finished, tmp_path):
    metrics = json.loads((finished / "metrics.json").read_text())
    best = metrics["best"]
    assert (best["checkpoint"], best["images_seen"], metrics["images_seen"]) == ("best-2.ckpt", 2, 4)
    flags = [f"--ckpt={finished / 'checkpoints' / 'best-2.ckpt'}", f"--out={tmp_path}"]
    assert evaluate.main(flags) == 0
    alone = json.loads((tmp_path / "metrics.json").read_text())
    for direction in ("a2b", "b2a"):
        for key in ("fid", "structure", "identity_gap"):
            assert best[direction][key] == pytest.approx(alone[direction][key], rel=1e-3, abs=1e-5), key
        assert best[direction]["fid"] != metrics[direction]["fid"]
        assert best[direction]["protocol"] == metrics[direction]["protocol"]
    assert json.loads((finished / "adapter" / "adapter.json").read_text())["images_seen"] == 4
    assert torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)["progress"]["images_seen"] == 4


def test_the_pictures_are_the_last_states(finished):
    with Image.open(finished / "pictures_a2b.png") as picture:
        left = int(picture.text["left"])  # of the rows' labels
        drawn = torch.from_numpy(np.asarray(picture).astype(np.float32))[:, left:]
    cli = TrainCLI(finished, [f"--config={finished / 'config.yaml'}"])
    cli.model.setup("test")
    cli.model.eval()
    batch = next(iter(cli.datamodule.test_dataloader()[0]))
    away = {}
    for name in ("last", "best-2"):
        content = torch.load(finished / "checkpoints" / f"{name}.ckpt", weights_only=True)
        load_trained(cli.model, content["state_dict"], name)
        with torch.no_grad():
            fake = cli.model.test_step(batch, 1).fake[0]
        height, width = fake.shape[1:]
        shown = drawn[height + 4 : 2 * height + 4, 2 : 2 + width]  # the second row, behind two pixels of padding each
        away[name] = (shown - (fake.permute(1, 2, 0) + 1) * 127.5).abs().max().item()
    assert away["last"] <= 1 < away["best-2"]


@pytest.mark.parametrize(
    ("more", "is_last", "words"),
    [
        (chosen("max"), True, "best-2.ckpt after 2 images, the last state"),
        (["--trainer.limit_val_batches=0"], None, ""),
    ],
)
def test_what_needs_no_second_test_gets_none(
    more, is_last, words, two_level_base, folder_of_two_domains, tmp_path, capsys
):
    run = tmp_path / "run"
    more = ("--model.init_args.max_images=2", "--trainer.val_check_interval=1", *more)
    assert train.main(arguments(two_level_base, folder_of_two_domains, run, *more)) == 0
    best = json.loads((run / "metrics.json").read_text()).get("best")
    assert best == (is_last and {"checkpoint": "best-2.ckpt", "images_seen": 2, "is_last": True})
    said = capsys.readouterr().out
    assert words in said
    assert ("best a2b:" in said, "last a2b:" in said) == (False, bool(is_last))


def test_without_a_test_there_are_no_scores(two_level_base, folder_of_two_domains, tmp_path):
    """Those of validation are not the test split's, and the last state's are not the best state's."""
    run = tmp_path / "run"
    more = ("--model.init_args.max_images=2", "--trainer.val_check_interval=1", "--trainer.limit_test_batches=0")
    assert train.main(arguments(two_level_base, folder_of_two_domains, run, *more, *chosen("min"))) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert not {"a2b", "b2a"} & metrics.keys() and metrics["images_seen"] == 2
    assert metrics["best"] == {"checkpoint": "best-1.ckpt", "images_seen": 1}
    assert "metrics" not in json.loads((run / "adapter" / "adapter.json").read_text())
    text = (run / "adapter" / "README.md").read_text()
    assert "It has no scores of the test split." in text and "| direction |" not in text


def test_the_adapter_carries_its_scores_and_a_card(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    card = json.loads((finished / "adapter" / "adapter.json").read_text())
    assert card["metrics"] == {d: metrics[d] for d in ("a2b", "b2a")}
    assert card["best"] == metrics["best"]
    text = (finished / "adapter" / "README.md").read_text()
    for word in (
        card["base_fingerprint"],
        card["prompts"]["a2b"],
        f"{metrics['b2a']['fid']:.4g} random",
        "images seen: 4",
        f"{metrics['b2a']['fid_floor']:.4g} random",
        "best-2.ckpt after 2 images",
        f"| b2a, best state | 5 | {metrics['best']['b2a']['fid']:.4g} random",
    ):
        assert word in text


def test_tensorboard_has_every_term_on_one_axis_of_images(finished):
    events = EventAccumulator(str(finished), size_guidance={"scalars": 0, "images": 0, "tensors": 0, "histograms": 0})
    events.Reload()
    tags = events.Tags()
    directions = ("a2b", "b2a")
    for term in ("gan", "cycle", "cycle_lpips", "idt", "idt_lpips", "disc"):
        for d in directions:
            assert [s.step for s in events.Scalars(f"train/{term}_{d}")] == [1, 2, 3, 4]
    for name in ("fid", "kid", "structure", "identity_gap", "diversity"):
        for d in directions:
            assert [s.step for s in events.Scalars(f"val/{name}_{d}")] == [2, 4]
    assert {"lr/g", "lr/d", "perf/images_per_s", "perf/seconds_per_batch", "perf/peak_memory_mb"} <= set(
        tags["scalars"]
    )
    for d in directions:
        pictures = events.Images(f"val/pictures_{d}")
        assert [p.step for p in pictures] == [0, 2, 4]
    texts = {t.removesuffix("/text_summary") for t in tags["tensors"]}
    assert {"config", "prompts", "base and data"} <= texts
    for split, steps in (("val", [2, 4]), ("test", [4]), ("best", [2])):
        for d in directions:
            drawn = events.Histograms(f"{split}/per_image/identity_gap_{d}")
            assert [h.step for h in drawn] == steps
            assert all(h.histogram_value.num == (4 if split == "val" else 5) for h in drawn)
            assert f"{split}/per_image/psnr_truth_{d}" not in tags["histograms"], "there is no truth"
            assert [s.step for s in events.Scalars(f"{split}/fid_{d}")] == steps
            (said,) = events.Tensors(f"protocol/{split}_{d}/text_summary")
            text = said.tensor_proto.string_val[0].decode()
            network = load_features("random")
            for words in (f"direction: {d}", f"FID and KID random {network.hash}", f"torch {torch.__version__}"):
                assert words.partition("+")[0] in text
            assert "translated: 5 images" in text or split == "val"
    warm_up = [s.value for s in events.Scalars("lr/g")]
    np.testing.assert_allclose(warm_up, [0.00025, 0.0005, 0.00075, 0.001], rtol=1e-5)


@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_translate_gives_the_validation_picture(direction, finished, folder_of_two_domains, two_level_base, tmp_path):
    """Within 1/255 of what the module itself makes of the same file."""
    cli = TrainCLI(finished, [f"--config={finished / 'config.yaml'}"])
    content = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    load_trained(cli.model, content["state_dict"], "last.ckpt")
    cli.model.setup("validate")
    cli.model.eval()
    loader = cli.datamodule.test_dataloader()[0 if direction == "a2b" else 1]
    source = folder_of_two_domains / ("test_A" if direction == "a2b" else "test_B")
    flags = [
        f"--ckpt={finished}",
        f"--in={source}",
        f"--out={tmp_path / 'out'}",
        f"--direction={direction}",
        "--size=32",
    ]
    assert translate.main(flags) == 0
    compared = 0
    for batch in loader:
        with torch.no_grad():
            made = cli.model.validation_step(batch, 1)
        for name, fake in zip(made.names, made.fake, strict=True):
            png = np.asarray(Image.open((tmp_path / "out" / name).with_suffix(".png"))).astype(float)
            ours = ((fake.permute(1, 2, 0).numpy() + 1) * 127.5).round()
            assert np.abs(png - ours).max() <= 1
            compared += 1
    assert compared == 5


@pytest.mark.parametrize(
    ("command", "flags", "words"),
    [
        (resume, ["--run=no/run"], ["no/run", "config.yaml"]),
        (evaluate, ["--ckpt=no/ckpt"], ["no/ckpt"]),
        (translate, ["--ckpt=no/ckpt", "--in=x", "--out=y"], ["no/ckpt"]),
    ],
)
def test_missing_runs_are_named(command, flags, words, capsys):
    assert command.main(flags) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words)
    assert error.count("\n") <= 2


def test_resume_needs_the_adapter_no_more_that_the_run_started_from(
    finished, two_level_base, folder_of_two_domains, tmp_path
):
    """Its scales and targets come from the checkpoint."""
    start = tmp_path / "start"
    shutil.copytree(finished / "adapter", start)
    card = json.loads((start / "adapter.json").read_text())
    card["settings"]["alpha_vae"] = 3
    (start / "adapter.json").write_text(json.dumps(card))
    run = tmp_path / "run"
    more = (f"--init={start}", "--model.init_args.max_images=2", "--trainer.val_check_interval=2", *chosen("min"))
    assert train.main(arguments(two_level_base, folder_of_two_domains, run, *more)) == 0
    shutil.rmtree(start)
    assert resume.main([f"--run={run}", "--model.init_args.max_images=4"]) == 0
    assert json.loads((run / "metrics.json").read_text())["images_seen"] == 4
    assert json.loads((run / "adapter" / "adapter.json").read_text())["settings"]["alpha_vae"] == 3


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("--data.init_args.batch_size=3", "batch_size"),
        ("--trainer.callbacks.init_args.monitor=val/fid_a2c", "Did you mean 'val/fid_a2b'"),
    ],
)
def test_a_setting_that_a_resumed_run_refuses_does_not_stay_in_its_config(setting, says, finished, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    before = (run / "config.yaml").read_bytes()
    assert resume.main([f"--run={run}", setting, "--model.init_args.max_images=6"]) == 2
    assert says in capsys.readouterr().err
    assert (run / "config.yaml").read_bytes() == before


def test_a_foreign_checkpoint_is_refused_by_resume(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    torch.save({"model": torch.zeros(1)}, run / "checkpoints" / "last.ckpt")
    assert resume.main([f"--run={run}"]) == 2
    assert "not a checkpoint of this project" in capsys.readouterr().err


def test_a_full_disk_stops_and_keeps_the_last_good_checkpoint(finished, tmp_path, capsys, caplog):
    """The system refuses files as large as a checkpoint; the adapter fits."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    good = (run / "checkpoints" / "last.ckpt").read_bytes()
    (run / "checkpoints" / f".{32 * '0'}.part").touch()  # left by a process that was killed
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(good) - 1000, limits[1]))
    try:
        code = resume.main([f"--run={run}", "--model.init_args.max_images=6"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    error = capsys.readouterr().err
    assert "last.ckpt could not be written" in error and "File too large" in error
    assert f"the last checkpoint holds 4. Resume with: make resume RUN={run}" in caplog.text
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == good
    assert not list(run.rglob("*.part"))


def test_loggers_of_the_user_are_written_beside_tensorboard(two_level_base, folder_of_two_domains, tmp_path):
    """Two at once: curves, scores and images; the run folder stays that of the first, TensorBoard's."""
    kind = "lightning.pytorch.loggers.CSVLogger"
    table = tmp_path / "table.yaml"
    made = [{"class_path": kind, "init_args": {"save_dir": str(tmp_path), "name": name}} for name in ("one", "two")]
    table.write_text(json.dumps({"trainer": {"logger": made}}))
    run = tmp_path / "run"
    more = (f"--config={table}", "--model.init_args.max_images=2", "--trainer.val_check_interval=2")
    assert train.main(arguments(two_level_base, folder_of_two_domains, run, *more)) == 0
    for name in ("one", "two"):
        (folder,) = (tmp_path / name).iterdir()
        columns = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
        assert {"train/gan_a2b", "val/fid_a2b", "test/fid_b2a"} <= set(columns)
        with Image.open(folder / "val_pictures_a2b_2.png") as grid:
            assert grid.height > 4 * 32
    events = EventAccumulator(str(run)).Reload()
    assert "val/fid_a2b" in events.Tags()["scalars"]
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith(("final", "alarm", "hp"))]
    assert not tags, "they would stand above the curves of the training"
    assert events.PluginTagToContent("hparams")
