import json

import pytest

from benchmarks.step import VARIANTS, main

pytestmark = pytest.mark.long


@pytest.mark.parametrize("exp", ["clear2foggy", "edge2image"])
def test_a_row_has_the_share_of_every_variant(exp, tmp_path):
    out = tmp_path / "step.json"
    few = ["--sizes", "32", "--rounds", "1", "--steps", "1"]
    assert main(["--exp", exp, "--bases", "pocket", *few, f"--out={out}"]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert row["shares"].keys() == row["seconds"].keys() == VARIANTS.keys()
    assert row["shares"]["published"] == 1 and min(row["seconds"].values()) > 0
