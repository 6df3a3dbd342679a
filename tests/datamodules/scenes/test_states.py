"""Scenes in any combination of attributes: one scene in every state, each attribute changing what it should alone."""

import itertools
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from datamodules.scenes import ATTRIBUTES, RENDERER_VERSION, WORDS, describe, render_pixels, render_state, states
from datamodules.scenes.shading import FOG_DENSITY, NIGHT_FOG, night, night_fog, resolve, wet
from datamodules.scenes.states import render_state_pixels
from datamodules.scenes.street import draw_street

GOLDEN = Path(__file__).with_name("states.npz")
ALL = [(place, state) for place in ATTRIBUTES for state in states(place)]


def street(index, size=64):
    return draw_street(*(np.random.default_rng([index, k]) for k in range(2)), size)


def test_images_are_those_that_were_recorded():
    """As in `test_scenes.py`."""
    golden = np.load(GOLDEN)
    drawn = {"-".join((place, *state)): render_state_pixels(place, state, 0, 3, 32) for place, state in ALL}
    assert set(golden.files) == {*drawn, "versions", "renderer"}
    assert golden["renderer"] == RENDERER_VERSION
    recorded = golden["versions"].tolist() == [version("numpy"), version("opencv-python-headless")]
    for name, image in drawn.items():
        assert np.abs(golden[name].astype(int) - image).max() <= (0 if recorded else 1), name


def test_the_scenes_are_those_of_the_worlds_with_two_domains():
    assert np.array_equal(
        render_state_pixels("street", ("day", "clear", "dry"), 0, 4, 64), render_pixels("clear_foggy", "a", 0, 4, 64)
    )
    assert np.array_equal(
        render_state_pixels("street", ("day", "foggy", "dry"), 0, 4, 64), render_pixels("clear_foggy", "b", 0, 4, 64)
    )
    for domain, animal in zip("ab", ("horse", "zebra"), strict=True):
        known = render_pixels("horse_zebra", domain, 0, 4, 64)
        drawn = [render_state_pixels("meadow", (animal, ground), 0, 4, 64) for ground in ("green", "dry", "sandy")]
        assert sum(np.array_equal(known, image) for image in drawn) == 1, "the one on the ground that was drawn"


@pytest.mark.parametrize("place", ATTRIBUTES)
def test_every_state_of_a_scene_differs(place):
    images = [render_state_pixels(place, state, 0, 5, 48).astype(int) for state in states(place)]
    assert min(np.abs(a - b).mean() for a, b in itertools.combinations(images, 2)) > 1
    assert render_state(place, states(place)[0], 0, 5, 48).abs().max() <= 1


@pytest.mark.parametrize("light", ["day", "night"])
@pytest.mark.parametrize("air", ["clear", "foggy"])
def test_rain_changes_the_road_alone(light, air):
    dry, after = (render_state_pixels("street", (light, air, road), 0, 3, 64).astype(int) for road in ("dry", "wet"))
    changed = np.abs(dry - after).max(axis=-1) > 2
    # Halos of lights in fog depend on the lights, which the road has none of.
    assert 0.08 < changed.mean() < 0.6
    assert not changed[:24].any(), "the road lies below the horizon"


def test_a_wet_road_mirrors_what_stands_above_it():
    scene = street(2, 96)
    surfaces = resolve(scene.canvas)
    dark = np.zeros((3, scene.canvas.side, scene.canvas.side), np.float32)
    lit = dark.copy()
    lit[:, : scene.canvas.side // 3] = 1  # the upper third
    assert not wet(dark, scene.canvas, surfaces).any()
    mirrored = wet(lit, scene.canvas, surfaces)[0]
    rows = np.flatnonzero(mirrored[scene.canvas.side // 2 :].any(axis=1))
    assert rows.size and rows.min() > scene.canvas.side // 12, "near the camera, where the upper third is mirrored"


@pytest.mark.parametrize("ground", ["green", "dry", "sandy"])
def test_another_animal_leaves_the_ground_alone(ground):
    horse, zebra = (
        render_state_pixels("meadow", (animal, ground), 0, 4, 96).astype(int) for animal in ("horse", "zebra")
    )
    changed = np.abs(horse - zebra).max(axis=-1) > 8
    assert 0.02 < changed.mean() < 0.5


def test_lamps_make_halos_in_fog_and_distance_hides_them():
    scene = street(1, 96)
    surfaces = resolve(scene.canvas)
    dark = night(scene.canvas, surfaces, np.zeros_like(surfaces.depth))
    foggy = night_fog(dark, surfaces)
    bare = surfaces.glow.copy()
    surfaces.glow = np.zeros_like(bare)
    unlit = night_fog(dark, surfaces)
    assert (foggy - unlit).max() > 0.1, "light around the lamps"
    light = NIGHT_FOG[..., None]
    expected = light + (dark - light) * np.where(surfaces.sky, 0, np.exp(-FOG_DENSITY * surfaces.depth))
    np.testing.assert_allclose(unlit, expected, rtol=1e-5, atol=1e-6)
    surfaces.glow = bare
    surfaces.depth = surfaces.depth + 100
    assert np.abs(night_fog(dark, surfaces) - light).max() < 0.02


@pytest.mark.parametrize(("place", "state"), ALL)
def test_captions_name_the_attributes_in_known_words(place, state):
    values = dict(zip(ATTRIBUTES[place], state, strict=True))
    assert {*describe(place, values).split()} <= {*WORDS, "wet"}
    others = [describe(place, dict(zip(ATTRIBUTES[place], other, strict=True))) for other in states(place)]
    assert len({*others}) == len(others)
    for name, value in values.items():
        alone = describe(place, {name: value})
        assert alone != describe(place, {}) and alone not in others


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: states("beach"), "'beach'"),
        (lambda: render_state("street", ("night", "dry", "clear"), 0, 0, 16), "air clear or foggy"),
        (lambda: render_state("meadow", ("zebra",), 0, 0, 16), "never"),
        (lambda: describe("meadow", {"ground": "wet"}), "'wet'"),
    ],
)
def test_unknown_states_are_named(ask, words):
    with pytest.raises(ValueError, match=words):
        ask()
