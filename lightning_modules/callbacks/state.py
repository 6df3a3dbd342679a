"""What callbacks read of the module in training."""

from lightning import LightningModule


def images_seen(module: LightningModule) -> int:
    """Training samples over all ranks so far; see `TranslationModule.images_seen`."""
    seen = module.images_seen
    assert isinstance(seen, int), "only modules that count images can be followed"
    return seen
