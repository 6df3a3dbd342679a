"""Rendered scenes with ground-truth counterparts, for runs without photographs and scores against ground truth."""

from datamodules.scenes.captions import WORDS, caption
from datamodules.scenes.images import SceneImages
from datamodules.scenes.states import ATTRIBUTES, State, describe, render_state, render_state_pixels, states
from datamodules.scenes.world import PROMPTS, RENDERER_VERSION, TASKS, render, render_pixels

__all__ = [
    "ATTRIBUTES",
    "PROMPTS",
    "RENDERER_VERSION",
    "TASKS",
    "WORDS",
    "SceneImages",
    "State",
    "caption",
    "describe",
    "render",
    "render_pixels",
    "render_state",
    "render_state_pixels",
    "states",
]
