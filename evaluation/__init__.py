"""Scores of translations and what is written about them: protocol, report, model card, comparison of runs."""
