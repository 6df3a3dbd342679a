"""User-defined loss terms: builds `LossTerm`s from the `{class_path, weight}` entries of an experiment."""

import functools
import inspect
import re
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, TypedDict, get_args

from torch import nn

from limits import ANY_NUMBER, check_range
from losses.terms import LossTerm, Reading
from storage import did_you_mean


class _TermEntry(TypedDict):
    class_path: str
    weight: float


class ExtraTerm(_TermEntry, total=False):
    """An entry of `extra_terms`.

    Attributes:
        class_path: a class whose instances are called with `losses.terms.TermInputs` (a `torch.nn.Module` or any
            callable), or a function that is; "package.module.Name", importable from the working directory or
            ``PYTHONPATH``.  Its attribute ``reads`` names the translations that it differentiates through, among
            "fake", "reconstruction" and "identity"; ``("fake",)`` where it has none.
        weight: factor in the generator's loss; 0 leaves the term out.
        init_args: arguments of the class; of a function, those beside the inputs.
        name: as logged; by default the class's, in snake case.
    """

    init_args: dict[str, Any]
    name: str


def build_extra_terms(
    entries: Sequence[ExtraTerm], known: Iterable[str], readable: Iterable[frozenset[Reading]]
) -> list[LossTerm]:
    """Import and construct the terms of nonzero weight; modules among them are frozen and in evaluation mode.

    Args:
        entries: as in the experiment.
        known: names of the model's own terms.
        readable: the sets of translations that share one backward pass; what a term reads must lie within one.

    Raises:
        ValueError: a weight is not finite, a class cannot be imported or constructed, a name is taken, or a term reads
            what these settings do not compute.
    """
    for entry in entries:
        # A negative weight may be meant: a term of one's own can measure something that should grow.
        check_range(f"extra_terms: the weight of {entry['class_path']}", entry["weight"], ANY_NUMBER)
    terms: list[LossTerm] = []
    taken, sets = set(known), list(readable)
    for entry in entries:
        if not entry["weight"]:
            continue
        path = entry["class_path"]
        made = _imported(path)
        try:
            options = entry.get("init_args", {})
            function = made(**options) if inspect.isclass(made) else functools.partial(made, **options)
        except TypeError as error:
            raise ValueError(f"extra_terms: {path} cannot be constructed: {error}.") from error
        if not callable(function):
            raise ValueError(f"extra_terms: {path} cannot be called: give it a method __call__(self, inputs).")
        if isinstance(function, nn.Module):
            function.requires_grad_(False).eval()
        name = entry.get("name") or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", path.rpartition(".")[2]).lower()
        if name in taken:
            raise ValueError(f"extra_terms: {name!r} ({path}) is taken by another term: give the entry another name.")
        taken.add(name)
        reads = frozenset(getattr(function if inspect.isclass(made) else made, "reads", ("fake",)))
        unknown = [word for word in sorted(reads) if word not in get_args(Reading)]
        if unknown or not reads:
            raise ValueError(
                f"extra_terms: {path} reads {', '.join(unknown) or 'nothing'}, known: {', '.join(get_args(Reading))}."
                + did_you_mean(unknown[0] if unknown else "", get_args(Reading))
            )
        if not any(reads <= one for one in sets):
            raise ValueError(
                f"extra_terms: {path} reads {' and '.join(sorted(reads))} in one backward pass; with these settings a "
                f"pass has {' or '.join(sorted(' and '.join(sorted(one)) for one in sets))}."
            )
        terms.append(LossTerm(name, function, entry["weight"], reads))
    return terms


def _imported(path: str) -> Any:  # noqa: ANN401  # whatever the user named
    module_name, _, name = path.rpartition(".")
    try:
        module = import_module(module_name or name)
    except ImportError as error:
        raise ValueError(
            f"extra_terms: {path} cannot be imported ({error}). Give package.module.Name; the folder that holds the "
            "package belongs on PYTHONPATH."
        ) from error
    if not module_name or not hasattr(module, name):
        raise ValueError(
            f"extra_terms: {module.__name__} ({module.__file__}) has no {name}.{did_you_mean(name, dir(module))}"
        )
    return getattr(module, name)
