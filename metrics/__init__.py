"""Scores of translations: the registry, one function per score, and metrics that are equal on any number of ranks."""
