"""Edits by words: folders of triples, and rendered edits that are functions of (seed, epoch, index)."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from commands.check_data import main as check_data
from datamodules import Edits
from datamodules.edits import NO_CHANGE, UNSEEN, scene_edits
from datamodules.files.edits import find_edits, read_edits
from datamodules.scenes import ATTRIBUTES, render_state
from images.reading import read_image
from tests.datamodules.miniature import save

SMALL = {"resize": 16, "crop": 16, "eval_size": 16, "num_workers": 0}


def lines(root, *rows, folder=""):
    """A metadata.jsonl of (input, target, prompt), and the images that are not there yet."""
    below = root / folder
    for number, name in enumerate(dict.fromkeys(name for row in rows for name in row[:2])):
        if not (below / name).is_file():
            save(below / name, shade=10 * number)
    keys = ("input", "target", "prompt")
    text = "".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows)
    (below / "metadata.jsonl").write_text(text)
    return root


@pytest.fixture
def scenes(tmp_path):
    """Twelve scenes of three images, each of which is an input, a target or both."""
    rows = []
    for k in range(12):
        rows += [(f"{k}/day.png", f"{k}/night.png", "make it night"), (f"{k}/day.png", f"{k}/fog.png", "add fog")]
        rows += [(f"{k}/fog.png", f"{k}/night.png", "make it night"), (f"{k}/day.png", f"{k}/day.png", "by day")]
    return lines(tmp_path, *rows)


def used(images):
    return {images.files[k] for k in range(len(images))}


def test_lines_become_triples(scenes):
    data = Edits(root=str(scenes), **{**SMALL, "flip": False})
    (sample,) = [s for k in range(len(data.training_set())) for s in [data.training_set()[0, k]] if k == 1]
    train = data.inputs["train"]
    source, target = (images["train"].files[1] for images in (data.inputs, data.targets))
    assert (source.name, target.name, sample["caption"]) == ("day.png", "fog.png", "add fog")
    assert len(train) == len(data.captions["train"]) == 4 * 8
    assert data.prompts == {"a2b": "make it night"}, "the most frequent one"
    evaluated = data.evaluation_set("a2b", "validate")[0]
    assert torch.equal(evaluated["real"], data.evaluation_set("a2b", "validate")[0]["real"])
    assert read_image(source).shape == (3, 16, 24)


def test_no_image_is_on_both_sides_of_a_hold_out(scenes):
    with pytest.warns(UserWarning, match="no test images"):
        data = Edits(root=str(scenes), **SMALL)
    train, validate = ({*used(data.inputs[s]), *used(data.targets[s])} for s in ("train", "validate"))
    assert len(validate) == 4 * 3 and len(train) == 8 * 3
    assert not train & validate
    assert data.test_is_validation


def test_groups_join_over_images_that_are_input_here_and_target_there(tmp_path):
    chain = [("a.png", "b.png", "x"), ("c.png", "d.png", "x"), ("b.png", "c.png", "x")]
    root = lines(tmp_path, *chain, *[(f"{k}.png", f"{k}0.png", "x") for k in range(1, 6)])
    with pytest.warns(UserWarning):
        pairs = find_edits(root, seed=0)
    for files in pairs.inputs.files.values():
        names = {path.name for path in files}
        assert names & {"a.png", "b.png", "c.png"} in ({"a.png", "b.png", "c.png"}, set())


def test_names_are_unique_where_lines_share_an_input(scenes):
    data = Edits(root=str(scenes), **SMALL)
    for images in (data.inputs["test"], data.targets["test"]):
        names = [images.name(k) for k in range(len(images))]
        assert len({*names}) == len(names) and any(name.endswith("-2.png") for name in names)


def test_a_repeated_name_is_none_of_another_file(tmp_path):
    rows = [("a.png", "b.png", prompt) for prompt in ("wet", "dry", "dark")]
    for name in ("train", "val"):
        lines(tmp_path / name, ("a-2.png", "b-2.png", "wet"), *rows)
    inputs = Edits(root=str(tmp_path), **SMALL).inputs["validate"]
    assert [inputs.name(k) for k in range(4)] == ["a-2.png", "a.png", "a-3.png", "a-4.png"]


def test_splits_of_folders(tmp_path):
    for name, count in (("train", 6), ("val", 2), ("test", 3)):
        lines(tmp_path / name, *[(f"{k}.png", f"{k}x.png", "wet") for k in range(count)])
    data = Edits(root=str(tmp_path), **SMALL)
    assert {stage: len(images) for stage, images in data.inputs.items()} == {"train": 6, "validate": 2, "test": 3}
    assert data.inputs["test"].folder == tmp_path / "test" and not data.test_is_validation


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (None, FileNotFoundError, "looked for metadata.jsonl and train/metadata.jsonl"),
        ("", ValueError, "has no lines"),
        ("{", ValueError, "line 1"),
        ('{"input": "a.png", "target": "b.png"}', ValueError, "line 1 is no edit: it needs the texts input"),
        ('{"input": "a.png", "target": "b.png", "prompt": 3}', ValueError, "is no edit"),
        ('\n{"input": "a.png", "target": "c.png", "prompt": "x"}', FileNotFoundError, "line 2 names an image"),
        ('{"input": "../a.png", "target": "b.png", "prompt": "x"}', ValueError, "not below"),
        ('{"input": "/etc/hosts", "target": "b.png", "prompt": "x"}', ValueError, "not below"),
        ('{"input": "a.png", "target": "b.png", "prompt": "x"}', ValueError, "too few to hold out"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path, text, error, words):
    for name in ("a.png", "b.png"):
        save(tmp_path / name)
    if text is not None:
        (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(error, match=words):
        Edits(root=str(tmp_path), **SMALL)


def test_a_prompt_may_hold_the_line_separators_of_unicode(tmp_path):
    save(tmp_path / "a.png")
    text = '{"input": "a.png", "target": "a.png", "prompt": "make it\u2028night\x85now"}\r\n'
    (tmp_path / "metadata.jsonl").write_text(2 * text, encoding="utf-8")
    assert [line.prompt for line in read_edits(tmp_path)] == 2 * ["make it night now"]


def test_the_folder_may_lie_above_the_current_one(scenes, tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert len(read_edits(Path(".."))) == len(read_edits(scenes)) == 48


def test_check_data_looks_through_a_folder_of_edits(scenes, tmp_path, capsys):
    sheet = str(tmp_path / "sheet.png")
    assert check_data(["--exp=edit", f"--data={scenes}", f"--out={sheet}"]) == 0
    printed = capsys.readouterr().out
    assert "no problems found" in printed and "warning" not in printed
    assert "captions  64 of 64" in printed
    (scenes / "3/fog.png").write_bytes(b"broken")
    assert check_data(["--exp=edit", f"--data={scenes}", f"--out={sheet}"]) == 1
    assert "fog.png" in capsys.readouterr().out


def test_an_image_may_be_an_input_and_a_target(scenes):
    assert Edits(root=str(scenes), **SMALL).suspicions() == []


@pytest.fixture(scope="module")
def rendered():
    return Edits(train_scenes=600, val_scenes=16, test_scenes=32, **SMALL)


def evaluated(data, stage):
    """The edits of a split's scenes."""
    known = {(e.place, e.source, e.target, e.prompt): e for place in ATTRIBUTES for e in scene_edits(place)}
    scenes = zip(data.inputs[stage].scenes, data.targets[stage].scenes, data.captions[stage], strict=True)
    return [known[place, source, target, prompt] for (place, source, _), (_, target, _), prompt in scenes]


def test_unseen_combinations_are_measured_and_never_trained(rendered):
    drawn = [rendered.training_set().edit(epoch, k) for epoch in range(8) for k in range(600)]
    assert not any(edit.unseen for edit in (*drawn, *rendered.trained))
    for place, (before, after) in UNSEEN.items():
        for edit in (edit for edit in drawn if edit.place == place):
            values = [dict(zip(ATTRIBUTES[place], s, strict=True)) for s in (edit.source, edit.target)]
            assert not (before.items() <= values[0].items() and after.items() <= values[1].items())
        assert sum(edit.unseen for edit in scene_edits(place)) >= 1
    assert "a street at night in dense fog" not in {edit.prompt for edit in drawn}
    for stage in ("validate", "test"):
        edits = evaluated(rendered, stage)
        assert sum(edit.unseen for edit in edits) == len(edits) // 8


def test_every_edit_and_a_tenth_of_no_ops_are_drawn(rendered):
    drawn = [rendered.training_set().edit(epoch, k) for epoch in range(8) for k in range(600)]
    assert {*drawn} == {*rendered.trained, *rendered.unchanged}
    assert sum(edit.kind == NO_CHANGE for edit in drawn) / len(drawn) == pytest.approx(0.1, abs=0.02)
    assert [rendered.training_set().edit(0, k) for k in range(50)] != [
        rendered.training_set().edit(1, k) for k in range(50)
    ]


def test_a_sample_is_its_scene_before_and_after(rendered):
    samples = rendered.training_set()
    first, again = samples[2, 5], samples[2, 5]
    assert torch.equal(first["real_a"], again["real_a"]) and first["caption"] == again["caption"]
    plain = Edits(train_scenes=8, flip=False, random_crop=False, **SMALL).training_set()
    edit = plain.edit(2, 5)
    for key, state in (("real_a", edit.source), ("real_b", edit.target)):
        assert torch.equal(plain[2, 5][key], render_state(edit.place, state, 0, 5, 16))
    assert plain[2, 5]["caption"] == edit.prompt


def test_the_prompt_names_what_changes_and_nothing_else(rendered):
    for edit in rendered.trained:
        names = [*ATTRIBUTES[edit.place]]
        changed = [n for n, a, b in zip(names, edit.source, edit.target, strict=True) if a != b]
        assert list(edit.asked) == changed
    for edit in rendered.unchanged:
        assert edit.asked.items() <= dict(zip(ATTRIBUTES[edit.place], edit.source, strict=True)).items()


def test_evaluation_has_every_kind_as_often_of_scenes_that_are_not_trained(rendered):
    kinds = Counter(edit.kind for edit in evaluated(rendered, "test"))
    assert len(kinds) == 16 and {*kinds.values()} == {2}
    trained, validated, tested = (
        {*range(600)},
        {n for *_, n in rendered.inputs["validate"].scenes},
        {n for *_, n in rendered.inputs["test"].scenes},
    )
    assert not trained & validated and not tested & (trained | validated)


def test_the_adapter_gets_the_list_of_prompts_where_it_is_short(rendered, scenes, tmp_path):
    assert "a street at night" in rendered.edits and len(rendered.edits) == len({*rendered.edits}) > 16
    assert {*Edits(root=str(scenes), **SMALL).edits} == {"make it night", "add fog", "by day"}
    many = lines(tmp_path / "many", *[(f"{k}.png", f"{k}x.png", f"prompt {k}") for k in range(90)])
    data = Edits(root=str(many), **SMALL)
    assert data.edits == () and data.asked("validate") == []


def test_kinds_limit_what_is_trained_and_not_what_is_measured():
    data = Edits(train_scenes=40, val_scenes=16, kinds=["a street at night"], noops=0.0, **SMALL)
    assert {data.training_set().edit(0, k).kind for k in range(40)} == {"a street at night"}
    assert data.edits == ("a street at night",), "prompts that are never drawn are not listed as trained"
    assert len({each.kind for each in data.asked("validate")}) == 16
    with pytest.raises(ValueError, match=r"no edits of the kind 'a street on fire'\. Known: a street at night; "):
        Edits(kinds=["a street on fire"], **SMALL)


def test_without_captions_every_image_has_the_adapter_s_prompt(scenes):
    for data in (
        Edits(train_scenes=20, val_scenes=16, captioned=False, **SMALL),
        Edits(root=str(scenes), captioned=False, **SMALL),
    ):
        prompt = data.prompts["a2b"]
        assert {data.training_set()[0, k]["caption"] for k in range(5)} == {*data.captions["validate"]} == {prompt}
        assert len({each.kind for each in data.asked("validate")}) > 1, "still told apart"


def test_a_share_of_no_ops_is_within_range():
    with pytest.raises(ValueError, match="noops"):
        Edits(train_scenes=8, noops=1.5, **SMALL)
