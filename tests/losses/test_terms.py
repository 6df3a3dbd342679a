import pytest
import torch

from losses.terms import weighted_total


def test_doubling_a_weight_doubles_that_terms_share():
    terms = {"gan": torch.tensor(2.0), "cycle": torch.tensor(3.0, requires_grad=True)}
    weights = {"gan": 0.5, "cycle": 10.0}
    total = weighted_total(terms, weights)
    doubled = weighted_total(terms, {**weights, "cycle": 20.0})
    assert (doubled - total).item() == pytest.approx(10.0 * 3.0)
    doubled.backward()
    assert terms["cycle"].grad.item() == pytest.approx(20.0)


def test_names_must_match_and_both_differences_are_named():
    with pytest.raises(ValueError, match=r"without a weight: cycle, idt; weights without a term: cyle"):
        weighted_total(dict.fromkeys(("gan", "cycle", "idt"), torch.tensor(1.0)), {"gan": 1.0, "cyle": 1.0})
    with pytest.raises(ValueError, match=r"without a weight: none; weights without a term: clip"):
        weighted_total({"gan": torch.tensor(1.0)}, {"gan": 1.0, "clip": 5.0})
