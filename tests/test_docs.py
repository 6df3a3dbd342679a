"""What README and docs tell the user to type: each command is run here, or parsed where it needs a cluster or hours."""

import importlib
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from commands import train, translate

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TARGETS = re.findall(r"^([a-z-]+):.*?## .+$", (ROOT / "Makefile").read_text(), re.MULTILINE)
VARIABLES = re.search(r"^KNOWN := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1).split()
RUN_FOLDER = "runs/clear2foggy/pocket/version_0"

# Parsed, not run: why.
NOT_RUN = {
    "make setup": "installs 6 GB; .ci/run does it",
    "make data NAME=horse2zebra": "downloads",
    "make tensorboard": "serves until it is stopped",
    "make demo": "likewise; tests/serving/test_demo.py",
    "make serve": "likewise; tests/serving/test_examples.py asks a server",
    "make ablate": "trains for an hour; tests/commands/test_ablate.py runs a small grid",
    "make export CKPT=runs/clear2foggy/pocket/version_0 FORMAT=openvino": "half a minute; test_export_models.py",
    "make export CKPT=runs/clear2foggy/pocket/version_0 FORMAT=web": "needs npm; tests/exporting/test_web.py",
    "make export CKPT=runs/day2night/pocket/version_0 FORMAT=web": "likewise",
    "make translate CKPT=foggy-model": "its folder",
    "make publish": "uploads; tests/commands/test_hub.py does, to an imitation of the hub",
    "make translate CKPT=owner/name": "downloads; likewise",
    "make train EXP=examples/own_score.yaml": "registers a score: a process of its own runs it, below",
}
NEEDS_A_CLUSTER = re.compile(r"^(srun|sbatch|#)|BASE=sd-turbo|--trainer\.devices")
# Two batches of small pictures on a base of a few thousand weights: the same code in seconds.
SMALL = """--trainer.accelerator=cpu --trainer.max_epochs=1 --trainer.limit_train_batches=2
--trainer.limit_val_batches=1 --trainer.limit_test_batches=1
--data.init_args.resize=36 --data.init_args.crop=32 --data.init_args.eval_size=32
--data.init_args.num_workers=0 --data.init_args.batch_size=1
--model.init_args.generator.init_args.rank_unet=2""".split()
FEW_SCENES = [f"--data.init_args.{split}_scenes={number}" for split, number in (("train", 4), ("val", 2), ("test", 2))]


def blocks(language):
    for page in PAGES:
        for text in re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
            yield page, text


def commands():
    found = [line.strip() for _, text in blocks("bash") for line in text.splitlines()]
    shell = ("#", "RUN=", "if ", "else", "fi")  # of a script, not commands
    return list(dict.fromkeys(line for line in found if line and not line.startswith(shell)))


def is_run(command):
    return command.startswith("make ") and not any(
        [NEEDS_A_CLUSTER.search(command), *(command.startswith(prefix) for prefix in NOT_RUN)]
    )


COMMANDS = commands()
RUN = [command for command in COMMANDS if is_run(command)]


def module_and_arguments(command, folder):
    """What a command line ends up calling: make runs with a Python that only writes down its arguments."""
    words = shlex.split(command.removeprefix(".venv/bin/"))
    while re.fullmatch("[A-Z]+=.*", words[0]):  # the environment of this one command
        words = words[1:]
    if words[0] in ("torchrun", "srun"):
        words = words[words.index("-m") + 1 :]
        return words[0], words[1:]
    recorder = folder / "recorder.py"
    recorder.write_text("import json, sys\nprint('CALLED' + json.dumps(sys.argv[2:]))\n")
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")}
    call = ["make", "-f", str(ROOT / "Makefile"), *words[1:], f"PY={sys.executable} {recorder}"]
    done = subprocess.run(call, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    module, *arguments = json.loads(done.stdout.partition("CALLED")[2])
    return module, arguments


def help_text(module, capsys):
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(module).main(["--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_there_is_something_to_check():
    assert len(RUN) > 8
    assert all(any(prefix in command for command in COMMANDS) for prefix in NOT_RUN)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.split()[0] not in ("sbatch", ".venv/bin/hf")])
def test_command_is_understood(command, tmp_path, capsys):
    if command == "make setup":
        assert "setup" in TARGETS
        return
    module, arguments = module_and_arguments(command, tmp_path)
    if module == "tensorboard.main":
        assert arguments[0].startswith("--logdir=")
        return
    assert module.startswith("commands.")
    flags = re.findall(r"(?<![\w-])--[\w-]+", help_text(module, capsys))
    for argument in arguments:
        if argument.startswith("--") and "." not in argument and not argument.startswith("--seed_everything"):
            assert argument.partition("=")[0] in flags, f"{module} does not know {argument}"


def test_inline_commands_use_known_targets_and_variables():
    for page in PAGES:
        for code in re.findall(r"`(make [^`]+)`", page.read_text()):
            words = code.replace("[", " ").replace("]", " ").split()
            assert words[1] in TARGETS, f"{page.name}: {code}"
            for name in re.findall(r"\b([A-Z]{2,})=", code):
                assert name in (*VARIABLES, "PYTHON"), f"{page.name}: {code}"


def test_configuration_keys_exist():
    from lightning import Trainer

    from datamodules import EdgeToImage, Edits, HorseZebra
    from datamodules.base import TranslationData
    from lightning_modules import CycleGANTurbo, Pix2PixTurbo
    from lightning_modules.base import TranslationModule

    owners = {
        "trainer": [Trainer],
        "data.init_args": [TranslationData, EdgeToImage, Edits, HorseZebra],
        "model.init_args": [TranslationModule, CycleGANTurbo, Pix2PixTurbo],
    }
    for page in PAGES:
        for owner, key in re.findall(r"--(trainer|data\.init_args|model\.init_args)\.(\w+)", page.read_text()):
            known = {name for cls in owners[owner] for name in inspect.signature(cls).parameters}
            assert key in known, f"{page.name}: --{owner}.{key}"


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"


def test_named_modules_exist():
    """Every file of code or YAML in a folder of this repository that a page names."""
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for name in re.findall(r"`(\w+/[\w/.-]+\.(?:py|yaml|html))`", page.read_text()):
            if (ROOT / name.partition("/")[0]).is_dir():
                assert (ROOT / name).is_file(), f"{page.name}: {name}"


def test_named_files_exist():
    text = (ROOT / "docs" / "architecture.md").read_text().partition("## Where things are")[2]
    folders = re.findall(r"`([a-z_]+/)`", text)
    assert len(folders) > 15 and all((ROOT / folder).is_dir() for folder in folders), folders
    text = (ROOT / "README.md").read_text()
    table = text.partition("## Experiments")[2].partition("## ")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert named == {path.stem for path in (ROOT / "experiments").glob("*.yaml")}


@pytest.fixture(scope="module")
def desk(tmp_path_factory, two_level_base):
    """A folder as the reader's: pictures, and the run that the first command of the README makes."""
    from images.ranges import to_pixels
    from images.writing import write_image

    folder = tmp_path_factory.mktemp("desk")
    draw = torch.Generator().manual_seed(0)
    numbers = {"train": 8, "test": 2}
    for split, number in numbers.items():
        for k in range(number):
            for side in (f"my-data/{split}_A", f"my-data/{split}_B", f"my-pairs/{split}_A", f"my-pairs/{split}_B"):
                picture = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8, generator=draw), size=(72, 80))[0]
                write_image(folder / side / f"{k}.png", picture * 2 - 1)
            write_image(folder / "my-photos" / split / f"{k}.png", picture * 2 - 1)
            for side, shade in (("clear-photos", 0.5), ("foggy-photos", 0.25)):
                write_image(folder / side / f"{split}-{k}.png", (picture * 2 - 1) * shade)
    write_image(folder / "photos" / "sub" / "a.png", picture * 2 - 1)
    Image.fromarray(to_pixels(picture * 2 - 1)).save(folder / "photo.jpg")
    for season, letter in (("summer", "A"), ("winter", "B")):
        shutil.copytree(folder / "my-data" / f"train_{letter}", folder / "my-seasons" / season)
    (folder / "examples").symlink_to(ROOT / "examples")
    with av.open(str(folder / "drive.mp4"), "w") as video:
        stream = video.add_stream("libx264", rate=25, width=32, height=24, pix_fmt="yuv420p")
        for _ in range(3):
            video.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((24, 32, 3), 128, np.uint8), format="rgb24")))
        video.mux(stream.encode(None))
    with pytest.MonkeyPatch.context() as patch:
        execute("make train EXP=clear2foggy DATA=my-data", folder, two_level_base, patch)
    shutil.copy(folder / RUN_FOLDER / "metrics.json", folder / "trained.json")
    for name in ("sketch.png", "street.png"):
        shutil.copy(folder / "photos" / "sub" / "a.png", folder / name)
    others = [RUN_FOLDER.replace("clear2foggy", exp) for exp in ("sketch2image", "edit")]
    for other in (RUN_FOLDER.replace("version_0", "version_1"), *others):
        shutil.copytree(folder / RUN_FOLDER, folder / other)
    shutil.copytree(folder / "my-pairs", folder / "my-edits")
    rows = [
        {"input": f"train_A/{k}.png", "target": f"train_B/{k}.png", "prompt": "make it night"}
        for k in range(numbers["train"])
    ]
    (folder / "my-edits" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def execute(command, folder, base, patch):
    module, arguments = module_and_arguments(command, folder)
    patch.chdir(folder)
    patch.delenv("ONE_STEP_RUN_FOLDER", raising=False)
    if module == "commands.train":
        # Later arguments win: what the page says stays parsed, and small.
        arguments += [*SMALL, f"--model.init_args.generator.init_args.base={base}"]
        if not any(word.startswith(("--data=", "--a=")) for word in arguments):
            arguments += FEW_SCENES
    code = importlib.import_module(module).main(arguments)
    patch.delenv("ONE_STEP_RUN_FOLDER", raising=False)
    assert code == 0, command


@pytest.mark.parametrize(
    "command", [c for c in RUN if c != "make train EXP=clear2foggy DATA=my-data" and "EXP=examples/" not in c]
)
def test_command_runs(command, desk, two_level_base, monkeypatch):
    execute(command, desk, two_level_base, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in COMMANDS if "accelerator=cpu" in c or "--standalone" in c])
def test_command_of_several_processes_runs(command, desk, two_level_base):
    """As written, in processes of its own; torchrun's GPUs become two processes on the CPU."""
    module, arguments = module_and_arguments(command, desk)
    launcher = [sys.executable, "-m"]
    if "torchrun" in command:
        launcher += ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
        arguments = [word for word in arguments if word not in ("--base", "sd-turbo")]
    small = [*SMALL, f"--model.init_args.generator.init_args.base={two_level_base}", "--data.init_args.root=my-data"]
    env = {k: v for k, v in os.environ.items() if k != "ONE_STEP_RUN_FOLDER"} | {"PYTHONPATH": str(ROOT)}
    before = len(list(desk.glob("runs/clear2foggy/pocket/*")))
    done = subprocess.run(
        [*launcher, module, *arguments, *small, "--trainer.devices=2"],
        cwd=desk,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    runs = sorted(desk.glob("runs/clear2foggy/pocket/*"), key=lambda folder: folder.stat().st_mtime)
    assert len(runs) == before + 1, "every rank must write into the one run folder"
    metrics = json.loads((runs[-1] / "metrics.json").read_text())
    assert (metrics["batches"], metrics["images_seen"]) == (2, 4)


def test_the_run_left_what_the_pages_name(desk):
    for name in ("config.yaml", "metrics.json", "adapter/adapter.json", "checkpoints/last.ckpt"):
        assert (desk / RUN_FOLDER / name).is_file()
    metrics = json.loads((desk / "trained.json").read_text())
    page = (ROOT / "docs" / "evaluation.md").read_text()
    beside = re.findall(r"`(\w+)`", page.partition("Beside them")[2].split(".")[0])
    assert beside
    assert set(beside) <= set(metrics)
    table = page.partition("## Scores of each direction")[2].partition("Beside them")[0]
    # The scores against the ground truth exist where the data has it, captions' with CLIP, edits' where it has edits, a
    # sample's size beyond 4096.
    scores = {key for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    some = {"psnr_truth", "lpips_truth", "caption_similarity", "edit_success", "edit_preserved", "kid_images"}
    assert scores - some <= set(metrics["a2b"])


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("own_*.*")), ids=lambda path: path.name)
def test_pages_show_or_name_each_example_as_it_is(path):
    shown = [text for language in ("python", "yaml") for page, text in blocks(language) if "extending" in page.name]
    pages = "".join(page.read_text() for page in PAGES if "extending" in page.name)
    assert path.read_text() in shown or f"(../examples/{path.name})" in pages


@pytest.mark.parametrize("name", ["own_data", "own_loss", "own_discriminator"])
def test_what_an_example_adds_is_used(name, desk, two_level_base, monkeypatch, capsys):
    (command,) = [c for c in RUN if f"train EXP=examples/{name}.yaml" in c]
    execute(command, desk, two_level_base, monkeypatch)
    run = desk / "runs" / name / "pocket" / "version_0"
    if name == "own_data":
        data = json.loads((run / "metrics.json").read_text())["data"]
        assert "summer and winter, train 4 + 4, validate 2 + 2, test 2 + 2" in data
    elif name == "own_loss":
        assert "mean_colour" in capsys.readouterr().out, "among the loss terms"
    else:
        heads = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        assert heads["discriminators.a2b.layers.0.weight"].shape[0] == 16


@pytest.mark.long
def test_a_run_with_a_class_of_your_own_goes_on_later(desk, two_level_base, monkeypatch):
    """Translated as any other; resumed and evaluated where its module is named as trusted, else one line says so."""

    def run(*words, code=0, **variables):
        env = {k: v for k, v in os.environ.items() if k != "ONE_STEP_RUN_FOLDER"} | {"PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-m", *words]
        done = subprocess.run(words, cwd=desk, env=env | variables, capture_output=True, text=True)
        assert done.returncode == code, done.stderr[-2000:]
        return done.stdout + done.stderr

    small = [*SMALL, f"--model.init_args.generator.init_args.base={two_level_base}"]
    score = str(ROOT / "examples" / "own_score.yaml")
    said = run("commands.train", f"--exp={score}", "--data=my-data", "--run=mine/score", *small)
    assert "Traceback" not in said
    metrics = json.loads((desk / "mine" / "score" / "metrics.json").read_text())
    assert 0 < metrics["a2b"]["brightness"] < 255

    said = run("commands.evaluate", "--ckpt=mine/score", code=2)
    assert "own_score" in said and "TRUST" in said
    trusted = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'examples'}"}
    run("commands.evaluate", "--ckpt=mine/score", "--trust=own_score", "--out=mine/again", **trusted)
    again = json.loads((desk / "mine" / "again" / "metrics.json").read_text())
    assert again["a2b"]["brightness"] > 0
    monkeypatch.chdir(desk)
    assert translate.main(["--ckpt=mine/score", "--in=photo.jpg", "--out=mine/out.png"]) == 0


@pytest.mark.long
def test_the_examples_train(desk, tmp_path, monkeypatch):
    """As the page says: a base from its script, and a training without the commands, whose adapter translates."""

    def run(*words):
        env = {k: v for k, v in os.environ.items() if k != "ONE_STEP_RUN_FOLDER"} | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    run(str(ROOT / "examples" / "own_base.py"), "own-base")
    small = [word for word in SMALL if "rank" not in word]
    base = f"--base={ROOT / 'examples' / 'own_base.yaml'}"
    monkeypatch.chdir(tmp_path)
    assert train.main(["--exp=clear2foggy", base, f"--data={desk / 'my-data'}", "--run=run", *small]) == 0
    monkeypatch.delenv("ONE_STEP_RUN_FOLDER", raising=False)
    assert json.loads((tmp_path / "run" / "adapter" / "adapter.json").read_text())["base"] == "own-base"
    images, out = ["--images=1"], ["--out=own-adapter"]
    assert "Adapter: own-adapter" in run(
        str(ROOT / "examples" / "own_trainer.py"), str(desk / "my-data"), *images, *out
    )
    assert translate.main(["--ckpt=own-adapter", f"--in={desk / 'photo.jpg'}", "--out=out.png"]) == 0
    assert Image.open(tmp_path / "out.png").size == Image.open(desk / "photo.jpg").size


@pytest.mark.parametrize("code", [text for _, text in blocks("python") if not re.search('^"""|http://127', text)])
def test_python_runs(code, desk, monkeypatch):
    monkeypatch.chdir(desk)
    exec(compile(code, "README.md", "exec"), {})
    assert (desk / "foggy.png").is_file()
