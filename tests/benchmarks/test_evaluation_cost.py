import json
import time

import pytest

from benchmarks import evaluation_cost
from networks import OneStepGenerator


@pytest.mark.parametrize(("pause", "code"), [(2.0, 0), (0.0, 1)])
def test_time_is_booked_where_it_is_spent(tmp_path, monkeypatch, pause, code):
    """Six pairs in batches of four; a translator that only waits, or does not even that."""
    calls = []

    def translate(self, image, captions, direction):
        calls.append((tuple(image.shape), direction))
        time.sleep(pause)
        return image

    monkeypatch.setattr(OneStepGenerator, "translate", translate)
    out = tmp_path / "cost.json"
    assert evaluation_cost.main(["--pairs=6", "--size=64", f"--out={out}"]) == code
    assert calls == [((4, 3, 64, 64), "a2b"), ((2, 3, 64, 64), "a2b")]
    report = json.loads(out.read_text())
    assert (report["n_real"], report["n_fake"], report["size"]) == (6, 6, 64)
    assert list(report["seconds"]) == list(report["shares"]) == list(evaluation_cost.PARTS)
    assert 2 * pause <= report["seconds"]["translating"] < 2 * pause + 0.5
    assert all(spent > 0 for spent in report["seconds"].values())
    assert report["all_but_translating"] == pytest.approx(1 - report["shares"]["translating"])


def test_images_beyond_the_number_asked_for_are_not_read(tmp_path, monkeypatch):
    root = evaluation_cost.rendered(tmp_path / "data", 9, 64)
    monkeypatch.setattr(OneStepGenerator, "translate", lambda self, image, captions, direction: image)
    out = tmp_path / "cost.json"
    evaluation_cost.main(["--pairs=4", "--size=64", f"--data={root}", f"--out={out}"])
    report = json.loads(out.read_text())
    assert (report["n_real"], report["n_fake"], report["data"]) == (4, 4, str(root))
