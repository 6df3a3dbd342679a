import gc
import json
import tracemalloc

import pytest

from benchmarks.many_files import main, make_files
from datamodules import UnpairedImages

pytestmark = pytest.mark.filterwarnings("ignore:.*has no test images")


@pytest.mark.long
def test_both_starts_are_measured_and_nothing_is_left(tmp_path, capsys):
    out = tmp_path / "result.json"
    main(["--files=400", f"--folder={tmp_path}", f"--out={out}"])
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    found = json.loads(out.read_text())
    assert found["files"] == 400
    assert set(found["starts"]) == {"first start", "later start"}
    # Of so few files, either may take longer.
    assert all(min(start["seconds"], start["cpu_seconds"]) > 0 for start in found["starts"].values())
    assert "later start" in capsys.readouterr().out


def test_a_file_takes_less_than_300_bytes(tmp_path):
    make_files(tmp_path, count := 4000)
    UnpairedImages(root=str(tmp_path / "data"))  # imports what it needs
    tracemalloc.start()
    try:
        data = UnpairedImages(root=str(tmp_path / "data"))
        gc.collect()
        current, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(data.training_set()) == count // 2 - 200
    assert current / count < 300
