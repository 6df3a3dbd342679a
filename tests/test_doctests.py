"""The examples in docstrings of public functions give what they say."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["storage", "limits", "images.resizing", "metrics.scores"])
def test_examples_of_docstrings(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
