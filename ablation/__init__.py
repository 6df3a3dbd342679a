"""Grids of trainings: which points, how they run, and what they say."""
