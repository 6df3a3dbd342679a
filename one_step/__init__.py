"""What other programs import: trained translators, and the generator itself.

Examples:
    >>> from one_step import Translator
    >>> translator = Translator.load("runs/clear2foggy/pocket/version_0")
    >>> translator("photo.jpg").save("foggy.png")
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inference import Translator
    from networks import load_generator

__all__ = ["Translator", "load_generator"]


def __getattr__(name: str) -> object:
    """Import on first use: the generator needs torch, which takes seconds, and `Translator` of exported models not."""
    if name == "Translator":
        from inference import Translator

        return Translator
    if name == "load_generator":
        from networks import load_generator

        return load_generator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
