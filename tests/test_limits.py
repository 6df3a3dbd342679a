"""Ranges of numbers, and the classes that check them when they are built."""

import inspect
import math

import pytest

from lightning_modules import CycleGANTurbo
from lightning_modules.callbacks import CollapseAlarm, ImageGrid
from lightning_modules.paired import PairedWeights
from lightning_modules.unpaired import UnpairedWeights
from limits import LIMITS, Range, check_settings
from losses.extra import build_extra_terms
from networks import OneStepGenerator, PatchDiscriminator, ResnetGenerator, VisionAidedDiscriminator


@pytest.mark.parametrize(
    ("wanted", "inside", "outside"),
    [
        (Range(1, whole=True), [1, 10**20], [0, -1, 1.0, True, None, math.nan, "1"]),
        (Range(0, 1), [0, 1, 0.5], [-0.1, 1.1, math.nan, None, False]),
        (Range(0), [0, 1e308], [-1e-9, math.inf, math.nan]),
        (Range(0, above=True, infinite=True), [1e-9, math.inf], [0, -math.inf, math.nan]),
        (Range(-math.inf), [-1e308, 0], [math.inf, -math.inf, math.nan]),
        (Range(1, whole=True, optional=True), [None, 1], [0]),
    ],
)
def test_ranges(wanted, inside, outside):
    assert all(wanted.holds(value) for value in inside)
    assert not any(wanted.holds(value) for value in outside)


def test_the_message_has_name_range_and_value():
    with pytest.raises(ValueError, match=r"^crop must be an integer of at least 1 and at most 8192, got None\.$"):
        check_settings(crop=None)
    with pytest.raises(ValueError, match=r"^cooldown must be a number in \[0, 1\], got nan\.$"):
        check_settings(cooldown=math.nan)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (UnpairedWeights, {"cycle": -1.0}),
        (PairedWeights, {"l2": math.nan}),
        (ImageGrid, {"images": 0}),
        (CollapseAlarm, {"patience": 0}),
        (CollapseAlarm, {"truth_floor": math.nan}),
        (PatchDiscriminator, {"width": 0}),
        (PatchDiscriminator, {"layers": 99}),
        (VisionAidedDiscriminator, {"width": 10**6}),
        (ResnetGenerator, {"width": 10**6}),
        (OneStepGenerator, {"rank_unet": 10**9}),
        (OneStepGenerator, {"alpha_vae": -1}),
    ],
)
def test_classes_refuse_what_cannot_be_meant_before_they_allocate(kind, settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} must be .*, got "):
        kind(**settings)


def test_a_term_of_ones_own_may_have_a_negative_weight_but_no_nan():
    entry = {"class_path": "torch.nn.Identity", "weight": math.nan}
    with pytest.raises(ValueError, match=r"the weight of torch.nn.Identity must be a finite number, got nan"):
        build_extra_terms([entry], (), [frozenset(("fake",))])
    assert build_extra_terms([entry | {"weight": -1.0}], (), [frozenset(("fake",))])[0].weight == -1.0


def test_every_training_setting_that_is_a_number_has_a_range():
    numbers = {
        name
        for name, parameter in inspect.signature(CycleGANTurbo.__mro__[1].__init__).parameters.items()
        if parameter.annotation in (int, float, "int", "float", int | None, "int | None")
    }
    assert numbers and numbers <= LIMITS.keys()
