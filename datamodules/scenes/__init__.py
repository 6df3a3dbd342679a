"""Rendered scenes with their true counterpart, for runs without photographs and for measuring against the truth."""

from datamodules.scenes.world import (
    PROMPTS,
    RENDERER_VERSION,
    TASKS,
    WORDS,
    SceneImages,
    caption,
    render,
    render_pixels,
)

__all__ = ["PROMPTS", "RENDERER_VERSION", "TASKS", "WORDS", "SceneImages", "caption", "render", "render_pixels"]
