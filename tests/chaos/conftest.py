import os
from pathlib import Path

import pytest

from commands import train

from ..commands.conftest import folder_of_two_domains  # noqa: F401
from .harness import ROOT, Warm
from .runs import reference
from .workshop import IMAGES, Workshop


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    """The server of forked cases, with a cache of its own."""
    with Warm({"ONE_STEP_CACHE": str(tmp_path_factory.mktemp("chaos_cache"))}) as server:
        yield server


@pytest.fixture(scope="session")
def workshop(two_level_base, folder_of_two_domains, tmp_path_factory):  # noqa: F811
    made = Workshop(two_level_base, folder_of_two_domains, tmp_path_factory.mktemp("workshop") / "run")
    assert train.main(made.train(made.run, IMAGES)) == 0
    return made


@pytest.fixture(scope="session")
def share():
    """Part of the cases to run; CHAOS_SHARE=0.1 runs every campaign with a tenth."""
    return float(os.environ.get("CHAOS_SHARE", "1"))


@pytest.fixture(scope="session")
def results():
    return Path(os.environ.get("CHAOS_OUT", ROOT / "runs" / "chaos"))


@pytest.fixture(scope="session")
def known(warm, workshop, tmp_path_factory):
    """The uninterrupted training that interrupted ones are compared with."""
    return reference(warm, workshop, tmp_path_factory.mktemp("reference"))
