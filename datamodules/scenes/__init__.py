"""Rendered scenes with ground-truth counterparts, for runs without photographs and scores against ground truth."""

from datamodules.scenes.captions import WORDS, caption
from datamodules.scenes.images import SceneImages
from datamodules.scenes.world import PROMPTS, RENDERER_VERSION, TASKS, render, render_pixels

__all__ = ["PROMPTS", "RENDERER_VERSION", "TASKS", "WORDS", "SceneImages", "caption", "render", "render_pixels"]
