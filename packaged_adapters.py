"""Adapters that come with the package: ``pocket:NAME`` where a path may stand."""

from pathlib import Path

from storage import did_you_mean

PREFIX = "pocket:"
FOLDER = Path(__file__).parent / "networks" / "pocket" / "adapters"


def packaged_adapter(given: str | Path) -> Path | None:
    """The folder of a packaged adapter; None where a text names none.

    Args:
        given: ``pocket:NAME``, or anything else that names an adapter.

    Raises:
        FileNotFoundError: no packaged adapter has this name; one line.
    """
    text = str(given)
    if not text.startswith(PREFIX):
        return None
    name, known = text.removeprefix(PREFIX), packaged_names()
    if name not in known:
        raise FileNotFoundError(
            f"No packaged adapter {text}.{did_you_mean(name, known)} Known: {', '.join(PREFIX + one for one in known)}."
        )
    return FOLDER / name


def packaged_names() -> list[str]:
    """Names of the packaged adapters, sorted."""
    return sorted(card.parent.name for card in FOLDER.glob("*/adapter.json"))
