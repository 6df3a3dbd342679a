"""Rendered scenes with their true counterpart, for runs without photographs."""

from datamodules.scenes.placeholder import TASKS, SceneImages, render

__all__ = ["TASKS", "SceneImages", "render"]
