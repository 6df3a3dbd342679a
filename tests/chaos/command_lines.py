"""Mutated command lines and configurations of every command."""

import copy
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from .harness import CANARY, Case
from .workshop import Workshop

Words = list[str]
Cases = Iterator[tuple[Case, Path]]

CODE = f"touch {CANARY}"
NUMBERS = ["-1", "0", "0.5", "1e999", "nan", "-inf", "99999999999999999999", "1_0", "0x10", "1e-9", "1,5"]
TEXTS = [
    *(
        "",
        " ",
        "ü🦓",
        "a\nb",
        "%s%n",
        "${oc.env:HOME}",
        "${model}",
        "${",
        "{a: b",
        "[1, [2",
        "null",
        "true",
        "[]",
        "{}",
    ),
    *("!!python/object/apply:os.system [touch " + CANARY + "]", "a" * 5000, "- a", "&a [*a]", "\t", "a: b: c", "'"),
]
PATHS = [
    "/dev/null",
    "/proc/self/mem",
    "/",
    "../../../../etc/passwd",
    "no/such/file",
    "~nobody/x",
    ".",
    "fifo",
    "/etc/passwd",
]
CLASSES = [
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "torch.nn.Linear",
    "networks.NoSuch",
    "no.such.Module",
    "os",
]
VALUES = [*NUMBERS, *TEXTS, *PATHS, *CLASSES]
ODD: list[Any] = [None, True, -1, 0, 1e308, float("nan"), "", "x" * 5000, [], [[]], {}, {"a": {"b": []}}]
LEAVES = [*ODD, *CLASSES, CODE]
REFUSED = ["--data=no/such/folder", "--exp=no_such_experiment", "--seeds=-1", "--grid=no_such_grid"]


def cases(workshop: Workshop, folder: Path, count: int, seed: int) -> Cases:
    """Seeded cases: two thirds command lines, one third YAML files.

    Args:
        workshop: what the unchanged command lines name.
        folder: where each case gets a folder of its own.
        count: of cases.
        seed: of all of them.
    """
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        here = folder / f"{number:04d}"
        here.mkdir(parents=True)
        made = _config_case(workshop, here, draw) if number % 3 == 2 else _line_case(workshop, here, draw)
        yield made, here


def lines(workshop: Workshop, here: Path) -> dict[str, tuple[str, Words]]:
    """Command and arguments that work, by name."""
    run, image = workshop.run, next((workshop.data / "test_A").iterdir())
    return {
        "train": ("train", workshop.train(here / "run")),
        "resume": ("resume", [f"--run={here / 'resumed'}", "--model.init_args.max_images=8"]),
        "translate": ("translate", [
            f"--ckpt={run}", f"--in={image}", f"--out={here / 'out.png'}", "--direction=a2b", "--strength=0.5",
            "--seed=1", "--size=16", "--preprocess=none", "--batch=1", "--device=cpu", "--prompt=fog",
            f"--base={workshop.base}",
        ]),
        "evaluate": ("evaluate", [
            f"--ckpt={run}", f"--data={workshop.data}", f"--base={workshop.base}", f"--out={here / 'scores'}",
            "--resize=clean", "--device=cpu",
        ]),
        "export": ("export", [
            f"--ckpt={run}", "--format=diffusers", f"--out={here / 'exported'}", f"--base={workshop.base}",
        ]),
        "estimate": ("estimate", [
            "--exp=clear2foggy", f"--base={workshop.base}", "--size=32", "--batch=1", "--trainer.precision=32-true",
            "--model.init_args.lpips_features=random", "--evaluation.captions=null",
        ]),
        "check_data": ("check_data", ["--exp=clear2foggy", f"--data={workshop.data}", f"--out={here / 'sheet.png'}"]),
        "compare": ("compare", [str(run), str(run / "metrics.json")]),
        "data": ("data", ["--name=oxford", f"--archive={image}", f"--out={here / 'data'}"]),
        "ablate": ("ablate", ["--grid=design", "--exp=clear2foggy", "--seeds=1", "--quick", f"--out={here / 'grid'}"]),
        "doctor": ("doctor", []),
    }  # fmt: skip


WEIGHTS = {"train": 6, "resume": 2, "translate": 5, "evaluate": 3, "export": 2, "estimate": 2, "check_data": 2,
           "compare": 1, "data": 1, "ablate": 2, "doctor": 1}  # fmt: skip


def _line_case(workshop: Workshop, here: Path, draw: random.Random) -> Case:
    known = lines(workshop, here)
    name = draw.choices([*known], [WEIGHTS[name] for name in known])[0]
    command, words = known[name]
    if name == "resume":
        workshop.copy_run(here / "resumed")
        words[0] += "/clear2foggy/base/version_0"
    how, changed = draw.choice(CHANGES)(list(words), draw)
    if name == "ablate":  # accepted, it would start Ray's cluster
        changed.append(draw.choice(REFUSED))
    if "fifo" in " ".join(changed):
        os.mkfifo(here / "fifo")
    return Case(f"{name}: {how}", command, changed, must_fail=name in ("ablate", "data"))


def _set(words: Words, draw: random.Random) -> tuple[str, Words]:
    if not words:
        return "an argument", [draw.choice(VALUES)]
    at = draw.randrange(len(words))
    key, value = words[at].partition("=")[0], draw.choice(VALUES)
    words[at] = f"{key}={value}" if "=" in words[at] else value
    return f"{words[at][:80]!r}", words


def _set_setting(words: Words, draw: random.Random) -> tuple[str, Words]:
    key, value = draw.choice(SETTINGS), draw.choice([*NUMBERS, *NUMBERS, *VALUES])
    return f"{key}={value[:60]!r}", [*words, f"--{key}={value}"]


def _drop(words: Words, draw: random.Random) -> tuple[str, Words]:
    gone = words.pop(draw.randrange(len(words))) if words else ""
    return f"without {gone[:60]!r}", words


def _misspell(words: Words, draw: random.Random) -> tuple[str, Words]:
    if not words:
        return "--hlp", ["--hlp"]
    at = draw.randrange(len(words))
    key, equals, value = words[at].partition("=")
    cut = draw.randrange(len(key))
    key = key[:cut] + draw.choice(["", "x", "_", ".", "-"]) + key[cut + 1 :]
    words[at] = key + equals + value
    return f"misspelt {key!r}", words


def _repeat(words: Words, draw: random.Random) -> tuple[str, Words]:
    again = draw.choice(words or ["--help"])
    return f"twice {again[:60]!r}", [*words, again]


def _swap(words: Words, draw: random.Random) -> tuple[str, Words]:
    if len(words) < 2:
        return "--", [*words, "--"]
    a, b = draw.sample(range(len(words)), 2)
    (key_a, _, value_a), (key_b, _, value_b) = words[a].partition("="), words[b].partition("=")
    words[a], words[b] = f"{key_a}={value_b}", f"{key_b}={value_a}"
    return f"values of {key_a} and {key_b} swapped", words


def _split(words: Words, draw: random.Random) -> tuple[str, Words]:
    at = draw.randrange(len(words)) if words else 0
    parts = words[at].split("=", 1) if words else ["-"]
    draw.shuffle(parts)
    return f"split {' '.join(parts)[:60]!r}", [*words[:at], *parts, *words[at + 1 :]]


CHANGES: list[Callable[[Words, random.Random], tuple[str, Words]]] = [
    *(_set, _set, _set, _set_setting, _set_setting, _set_setting, _drop, _misspell, _repeat, _swap, _split)
]
SETTINGS = """
seed_everything trainer.devices trainer.num_nodes trainer.precision trainer.strategy trainer.accelerator
trainer.val_check_interval trainer.limit_val_batches trainer.limit_test_batches trainer.log_every_n_steps
trainer.callbacks trainer.plugins trainer.logger trainer.profiler trainer.max_epochs trainer.gradient_clip_val
model.class_path model.init_args.generator model.init_args.generator.init_args.rank_unet
model.init_args.generator.init_args.alpha_unet model.init_args.generator.init_args.directions
model.init_args.generator.init_args.base model.init_args.generator.init_args.init
model.init_args.generator.init_args.frozen_dtype model.init_args.generator.init_args.unet_targets
model.init_args.discriminator model.init_args.discriminator.init_args.width
model.init_args.discriminator.init_args.layers model.init_args.optimizer_g model.init_args.optimizer_g.init_args.lr
model.init_args.optimizer_d model.init_args.weights model.init_args.weights.cycle model.init_args.lpips_features
model.init_args.update model.init_args.warmup_images model.init_args.clip_norm model.init_args.accumulate
model.init_args.max_images model.init_args.cooldown model.init_args.skip_lr_factor model.init_args.real_label
model.init_args.extra_terms data data.class_path data.init_args.root data.init_args.resize data.init_args.crop
data.init_args.eval_size data.init_args.batch_size data.init_args.eval_batch_size data.init_args.num_workers
data.init_args.seed data.init_args.train_limit data.init_args.prompt_a evaluation.features evaluation.structure
evaluation.lpips evaluation.captions evaluation.resize image_grid.images collapse_alarm.patience config
""".split()


def _config_case(workshop: Workshop, here: Path, draw: random.Random) -> Case:
    """A YAML of the user's own, a run's config.yaml or a grid's, with one leaf, its keys or its bytes changed."""
    kind = draw.choice(["own", "own", "run of evaluate", "run of resume", "run of resume"])
    if kind == "own":
        file, content = here / "mine.yaml", OWN
        words, command = ["--exp=mine.yaml", *workshop.train(here / "run")[1:]], "train"
    else:
        run = workshop.copy_run(here)
        file, content = run / "config.yaml", yaml.safe_load((run / "config.yaml").read_text())
        command, words = "evaluate", [f"--ckpt={run}", "--device=cpu"]
        if kind == "run of resume":
            command, words = "resume", [f"--run={run}", "--model.init_args.max_images=8"]
    if draw.random() < 0.7:
        how, content = change_leaf(content, draw, LEAVES)
        file.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    else:
        how, raw = _change_bytes(yaml.safe_dump(content, sort_keys=False), draw)
        file.write_bytes(raw)
    return Case(f"{kind}, {how}", command, words)


OWN: dict[str, Any] = {
    "method": "unpaired",
    "model": {"init_args": {"weights": {"cycle": 2.0}, "clip_norm": 1.0, "warmup_images": 2}},
    "data": {"class_path": "datamodules.UnpairedImages", "init_args": {"prompt_a": "day", "flip": True}},
    "evaluation": {"features": "random"},
}


def change_leaf(content: dict[str, Any], draw: random.Random, values: list[Any]) -> tuple[str, dict[str, Any]]:
    places = list(_places(content, ()))
    path = draw.choice(places)
    content = copy.deepcopy(content)
    section: Any = content
    for key in path[:-1]:
        section = section[key]
    name, way = ".".join(map(str, path)), draw.choice(["value", "value", "value", "gone", "renamed"])
    if way == "value" or isinstance(section, list):
        section[path[-1]] = value = draw.choice(values)
        return f"{name} = {str(value)[:40]!r}", content
    value = section.pop(path[-1])
    if way == "renamed":
        section[draw.choice([f"{path[-1]}x", "", 3, "class_path"])] = value
    return f"{name} {way}", content


def _places(content: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield from _places(value, (*path, key))


def _change_bytes(text: str, draw: random.Random) -> tuple[str, bytes]:
    raw = text.encode()
    cut = draw.randrange(len(raw))
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    return draw.choice([
        ("empty", b""),
        ("cut off", raw[:cut]),
        ("UTF-16", text.encode("utf-16")),
        ("a byte order mark", b"\xef\xbb\xbf" + raw),
        ("a zero byte", raw[:cut] + b"\0" + raw[cut:]),
        ("random bytes", raw[:cut] + draw.randbytes(8) + raw[cut + 8 :]),
        ("tabs", raw.replace(b"  ", b"\t")),
        ("a list", b"- 1\n- 2\n"),
        ("a number", b"3\n"),
        ("two documents", raw + b"---\n" + raw),
        ("deep", b"a: " + b"[" * 3000 + b"]" * 3000),
        ("deep mappings", "".join(" " * k + "a:\n" for k in range(500)).encode()),
        ("an expanding alias", bomb.encode() + raw),
        ("an alias of itself", b"a: &a {b: *a}\n" + raw),
        ("a tag that calls", raw + f"x: !!python/object/apply:os.system ['{CODE}']\n".encode()),
        ("a tag that makes", raw + f"x: !!python/object/new:subprocess.Popen [['touch', '{CANARY}']]\n".encode()),
        ("an interpolation without end", raw + b"x: ${y}\ny: ${x}\n"),
        ("keys that are no text", raw + b"1: 2\n? [a]\n: 3\n"),
        ("an unknown method", raw.replace(b"unpaired", b"unpared")),
    ])  # fmt: skip
