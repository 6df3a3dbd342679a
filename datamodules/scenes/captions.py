"""Captions of rendered scenes, and the words that they are made of."""

from datamodules.scenes.houses import WALL_COLOURS
from datamodules.scenes.meadow import COATS, GRASS, Meadow
from datamodules.scenes.traffic import CAR_COLOURS
from datamodules.scenes.world import PROMPTS, check_world, draw_scene

LIGHTS = {
    ("day_night", "a"): "by day",
    ("day_night", "b"): "at night",
    ("clear_foggy", "a"): "on a clear day",
    ("clear_foggy", "b"): "in dense fog",
}
FIELDS = {"green": "a green meadow", "dry": "dry grass", "sandy": "sand"}

WORDS = sorted(
    {word for text in (*PROMPTS.values(), *LIGHTS.values(), *FIELDS.values()) for word in text.split()}
    | {*CAR_COLOURS, *WALL_COLOURS, *COATS, *GRASS, "horses", "zebras", "two", "three", "grazing", "standing"}
    | {"street", "with", "and", "car", "house", "building", "trees", "people", "an", "empty", "zebra", "horse", ","}
)
"""Every word of the prompts and captions."""


def caption(task: str, domain: str, seed: int, index: int) -> str:
    """Caption of a scene, in words of `WORDS`; arguments and errors as in `render`."""
    check_world(task, domain)
    scene = draw_scene(task, seed, index, 8)
    if isinstance(scene, Meadow):
        return _animals(scene, "zebra" if domain == "b" else "horse")
    seen = list(dict.fromkeys(name for _, name in sorted(scene.objects, key=lambda pair: -pair[0])))[:3]
    light = LIGHTS[task, domain]
    if not seen:
        return f"an empty street {light}"
    things = seen[0] if len(seen) == 1 else f"{', '.join(seen[:-1])} and {seen[-1]}"
    return f"a street {light} with {things}"


def _animals(meadow: Meadow, kind: str) -> str:
    number = len(meadow.coats)
    # A coat is named where it can be seen.
    who = f"a {meadow.coats[0]} horse" if kind == "horse" else "a zebra"
    if number > 1:
        who = f"{('two', 'three')[number - 2]} {kind}s"
    return f"{who} {'grazing' if meadow.grazing else 'standing'} in {FIELDS[meadow.grass]}"
