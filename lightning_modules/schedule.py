"""Learning rates as functions of progress: linear warm-up, constant, linear cool-down."""


def warm_up(done: int, length: int) -> float:
    """Share of the full learning rate, in (0, 1]: a linear rise over the first `length` steps (or images).

    Args:
        done: steps (or images) finished before this one.
        length: of the rise; 0 for none.

    Examples:
        >>> [warm_up(done, length=4) for done in range(6)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    return min(1.0, (done + 1) / length) if length else 1.0


def cool_down(done: int, total: int | None, share: float) -> float:
    """Share of the full learning rate, in [0, 1]: a linear fall to 0 over the last `share` of training.

    Args:
        done: steps (or images) finished before this one.
        total: length of training; None has no end to count back from, so the rate stays.
        share: of `total`, in [0, 1]; 0 for no fall.

    Examples:
        >>> [cool_down(done, total=8, share=0.5) for done in (0, 4, 6, 8)]
        [1.0, 1.0, 0.5, 0.0]
    """
    if not total or not share:
        return 1.0
    return min(1.0, max(0.0, (1 - done / total) / share))
