"""The examples in docstrings give what they say."""

import doctest
import importlib

import pytest

from tests.test_imports import ROOT, SOURCES

# These load an adapter that the reader has trained: tests/inference has calls like them.
NEED_A_RUN = ("one_step", "inference.translator")


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = [module_of(path) for path in SOURCES if ">>> " in path.read_text()]


@pytest.mark.parametrize("name", [name for name in MODULES if name not in NEED_A_RUN])
def test_examples_of_docstrings(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
