"""Tables and pictures: made-up figures in, what a reader sees out."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ablation.figures import figure, front_of, images
from ablation.report import write_results
from ablation.tables import Column, Row, collect, compare, markdown

from .conftest import GRID

FIDS = {
    ("skip-zero-conv_rank-16", 0): (100.0, 200.0),
    ("skip-zero-conv_rank-16", 1): (102.0, 202.0),
    ("skip-zero-conv_rank-4", 0): (101.0, 190.0),
    ("skip-zero-conv_rank-4", 1): (101.5, 191.0),
    ("skip-none_rank-16", 0): (300.0, 150.0),
}


def test_the_table_has_a_row_per_point_and_marks_what_lies_beyond_the_spread(finished):
    lines = markdown(GRID, finished(FIDS)).splitlines()
    assert lines[0].startswith("| skip | rank | n | FID a2b | FID b2a | KID a2b")
    assert [line.split(" | ")[:5] for line in lines[2:5]] == [
        ["| zero-conv", "16", "2", "101 ± 1.41", "201 ± 1.41"],
        ["| zero-conv", "4", "2", "101 ± 0.354", "190 ± 0.707 ▲"],
        ["| none", "16", "1", "300", "150"],
    ]
    assert any("Missing: skip-none_rank-16/seed1." in line for line in lines)
    assert any(line.startswith("Mean ± standard deviation over n seeds") for line in lines)


def test_one_seed_is_said_to_be_one_seed(finished):
    text = markdown(GRID, finished({key: v for key, v in FIDS.items() if key[1] == 0}))
    assert "One seed: no spread is known" in text and "±" not in text and "▲" not in text


def of_seeds(*values):
    return Row({}, {"x": dict(enumerate(values))})


def test_only_seeds_that_both_have_are_compared():
    """The third seed's world is harder for whoever has it."""
    reference, row = Row({}, {"x": {0: 9.0, 1: 9.1, 2: 30.0}}), Row({}, {"x": {0: 9.0, 1: 9.1}})
    assert compare(row, reference, Column("x", "X", "lower")) == ""


@pytest.mark.parametrize(
    ("theirs", "better", "verdict"),
    [
        ([10.0, 10.2], "lower", "worse"),
        ([10.0, 10.2], "higher", "better"),
        ([10.0, 10.2], None, "other"),
        ([5.0, 15.0], "lower", ""),
        ([10.0], "lower", ""),
        ([9.0, 9.1], None, ""),
    ],
)
def test_a_difference_counts_where_chance_would_hardly_make_it(theirs, better, verdict):
    reference, row = of_seeds(9.0, 9.1), of_seeds(*theirs)
    assert compare(row, reference, Column("x", "X", better)) == verdict
    assert compare(of_seeds(9.5, 9.6), reference, Column("x", "X", None)) == "other", "every seed by the same"
    seconds = [Row({}, {"seconds_per_batch": {0: value, 1: value}}) for value in (1.0, 2.0)]
    assert compare(*seconds, Column("seconds_per_batch", "s", "lower")) == "", "their neighbours' doing"
    assert compare(reference, reference, Column("x", "X", better)) == ""


def test_csv_has_axes_first_and_a_line_per_run(finished, tmp_path):
    assert write_results(GRID, finished(FIDS), tmp_path) == ["table.csv", "table.md", "report.png", "report.html"]
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["skip", "rank", "seed", "fid_a2b"]
    assert [(r["skip"], r["rank"], r["seed"], r["fid_a2b"]) for r in rows[:2]] == [
        ("zero-conv", "16", "0", "100.0"),
        ("zero-conv", "4", "0", "101.0"),
    ]
    assert len(rows) == len(FIDS)
    page = (tmp_path / "report.html").read_text()
    assert '<td class="better">190 ± 0.707 ▲</td>' in page and "data:image/png;base64," in page
    assert "http" not in page, "a page that needs nothing else"


def test_nothing_finished_is_no_answer(finished, tmp_path):
    assert write_results(GRID, finished({}), tmp_path) == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("truth", [True, False])
def test_images_are_cut_as_the_png_says(finished, truth):
    """Whatever they show: the first column of the first one is as black as the padding."""
    rows = images(finished(FIDS, truth)[0], "a2b")
    assert [row.shape for row in rows] == [(4, 12, 16, 3)] * (3 if truth else 2)
    for k, row in enumerate(rows):
        assert [int(np.median(picture)) for picture in row] == [shade + 10 * k for shade in (40, 80, 120, 160)]


def test_a_png_without_its_layout_leaves_the_gallery_out(finished):
    trial = finished(FIDS)[0]
    path = Path(trial.folder) / "pictures_a2b.png"
    Image.fromarray(np.asarray(Image.open(path))).save(path)
    assert images(trial, "a2b") is None
    assert figure(GRID, [trial]) is not None


def test_the_report_shows_every_variant_beside_input_and_truth(finished):
    drawing = figure(GRID, finished(FIDS))
    galleries = drawing.subfigs[:2]
    titles = [cell.get_title() for cell in galleries[0].axes if cell.get_title()]
    assert titles == ["input", "zero-conv\n16", "zero-conv\n4", "none\n16", "ground truth"]
    skip, rank, pareto = drawing.subfigs[2].axes
    # 4 has no like without skips: the effect of skips is read at rank 16 alone.
    assert skip.get_lines()[2].get_ydata()[1] == 300.0
    assert list(rank.get_lines()[2].get_ydata()) == [101.0, 101.25]
    assert pareto.get_xlabel() == "seconds per batch, beside other trials"


def test_the_front_is_what_nothing_beats():
    assert front_of([(2, 5), (1, 9), (3, 6), (4, 1), (1, 8)]) == [(1, 8), (2, 5), (4, 1)]


def test_columns_are_those_that_any_run_has(finished):
    columns, rows = collect(finished({("skip-none_rank-16", 1): (3.0, 4.0)}, truth=False))
    assert not any("truth" in c.name or "diversity" in c.name for c in columns)
    assert [row.n for row in rows] == [0, 0, 1]


def edit(trial, direction, **changes):
    """Change a finished trial's block of a direction."""
    path = Path(trial.folder) / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics[direction] |= changes
    path.write_text(json.dumps(metrics))


def test_a_score_that_some_seeds_lack_has_their_number_beside(finished):
    trials = finished(FIDS)
    edit(trials[0], "a2b", fid=None)
    first = markdown(GRID, trials).splitlines()[2]
    assert first.startswith("| zero-conv | 16 | 2 | 102 (n = 1) | 201 ± 1.41 |")


def test_without_any_fid_the_other_scores_stay(finished, tmp_path):
    trials = finished({("skip-none_rank-16", 1): (3.0, 4.0)})
    for direction in ("a2b", "b2a"):
        edit(trials[5], direction, fid=None, kid=None)
    columns, _ = collect(trials)
    assert [c.heading for c in columns][:2] == ["structure a2b", "structure b2a"]
    assert write_results(GRID, trials, tmp_path / "table")


def test_rows_that_were_measured_differently_are_named(finished):
    trials = finished(FIDS)
    assert "measured differently" not in markdown(GRID, trials)
    edit(trials[1], "b2a", n_fake=3, fid_features="inception")
    text = markdown(GRID, trials)
    assert text.count("measured differently") == 1
    assert "skip-zero-conv_rank-4 was measured differently" in text
    assert "n_fake: 5 and 3; fid_features: lite0 and inception" in text
