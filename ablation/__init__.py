"""Ablations: grids of trainings, their trials on Ray Tune, tables and figures."""
