import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads what another, or the developer's own runs, remembered."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ONE_STEP_CACHE", str(folder))
    return folder
