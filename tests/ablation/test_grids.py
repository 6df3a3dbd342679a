import copy

import pytest

from ablation.grids import MAX_POINTS, grid_names, parse_grid, read_grid

CONTENT = {
    "experiment": "clear2foggy",
    "base": "pocket",
    "seeds": [0, 3],
    "settings": {"a.b": 1},
    "scale": {"pocket": {"model.max_images": 9}, "sd-turbo": {"model.max_images": 900}},
    "axes": {
        "skip": {"zero-conv": {}, "none": {"g.skips": False, "a.b": 2}},
        "rank": {16: {"g.rank": 16}, 4: {"g.rank": 4}},
    },
    "exclude": [{"skip": "none", "rank": 4}],
    "quick": {"settings": {"model.max_images": 2}, "axes": {"rank": [4]}},
}


def content(**changes):
    return {**copy.deepcopy(CONTENT), **changes}


def test_points_are_all_combinations_but_the_excluded():
    grid = parse_grid("g", content())
    assert [p.name for p in grid.points()] == ["skip-zero-conv_rank-16", "skip-zero-conv_rank-4", "skip-none_rank-16"]
    assert [p.settings for p in grid.points()] == [
        {"a.b": 1, "model.max_images": 9, "g.rank": 16},
        {"a.b": 1, "model.max_images": 9, "g.rank": 4},
        {"a.b": 2, "model.max_images": 9, "g.rank": 16, "g.skips": False},
    ]
    assert grid.size == 4 and grid.seeds == [0, 3]


def test_what_a_base_sets_follows_the_base():
    grid = parse_grid("g", content())
    grid.base = "sd-turbo"
    assert grid.points()[0].settings["model.max_images"] == 900
    grid.base = "somewhere/else"
    assert "model.max_images" not in grid.points()[0].settings


def test_the_short_form_says_what_it_changes():
    grid = parse_grid("g", content(), quick=True)
    assert [p.name for p in grid.points()] == ["skip-zero-conv_rank-4"]
    assert grid.points()[0].settings["model.max_images"] == 2 and grid.seeds == [0]
    grid.base = "sd-turbo"
    assert grid.points()[0].settings["model.max_images"] == 2, "short on every base"


def test_every_setting_is_in_a_single_change_even_if_only_excluded_points_had_it():
    grid = parse_grid("g", content(exclude=[{"rank": 4}]))
    assert [p.labels for p in grid.single_changes()] == [
        {"skip": "zero-conv", "rank": "16"},
        {"skip": "none", "rank": "16"},
        {"skip": "zero-conv", "rank": "4"},
    ]


def many(n):
    return {f"axis{k}": {str(v): {f"k{k}": v} for v in range(10)} for k in range(n)}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"axis": {}}, "key 'axis' is not known. Did you mean 'axes'"),
        ({"axes": {}}, "'axes' is missing or empty"),
        ({"axes": {"skip": {}}}, "axis 'skip' has no values"),
        ({"axes": {"skip": ["a", "b"]}}, "axes, axis skip|axis skip: expected keys and values"),
        ({"axes": {"skip": {"a b": {}}}}, "names are letters"),
        ({"axes": {"skip": {"a": {"x": {"y": 1}}}}}, "settings are dotted keys with plain values"),
        ({"exclude": [{"skips": "none"}]}, "'skips' is no axis. Axes: skip, rank"),
        ({"exclude": 3}, "exclude: expected a list, got 3"),
        ({"axes": {"my/axis": {"a": {}}}, "exclude": []}, "axes has a value named 'my/axis'"),
        ({"axes": {"skip": {False: {}}}}, "YAML reads off, on, no, yes and null as something else"),
        ({"quick": {"axes": {"rank": 4}}}, "quick, rank: expected a list, got 4"),
        ({"exclude": [{"rank": 5}]}, "rank has no value '5'. Values: 16, 4"),
        ({"exclude": [{"skip": "none"}, {"skip": "zero-conv"}]}, "no point left"),
        ({"seeds": []}, "seeds must be a list of integers from 0"),
        ({"seeds": 3}, "seeds must be a list of integers from 0"),
        ({"quick": {"axes": {"rank": [8]}}}, "rank has no value '8'"),
        ({"quick": {"images": 8}}, "key 'images' is not known"),
        ({"axes": many(6), "exclude": [], "quick": {}}, f"1,000,000 combinations; at most {MAX_POINTS:,}"),
    ],
)
def test_what_is_wrong_is_named(changes, says):
    with pytest.raises(ValueError, match=says):
        parse_grid("g", content(**changes), quick=True).points()


def test_files_are_found_by_name(tmp_path):
    (tmp_path / "design.yaml").write_text("experiment: x\naxes: {a: {b: {}}}\n")
    (tmp_path / "bad.yaml").write_text("axes: [")
    assert grid_names(tmp_path) == ["bad", "design"]
    assert read_grid("design", tmp_path).experiment == "x"
    with pytest.raises(ValueError, match=r"Unknown grid 'desing'. Did you mean 'design'\? Known: bad, design"):
        read_grid("desing", tmp_path)
    with pytest.raises(ValueError, match="is not YAML"):
        read_grid("bad", tmp_path)
