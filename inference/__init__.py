"""Translation of images with trained adapters and exported models."""

from inference.translator import Translator

__all__ = ["Translator"]
