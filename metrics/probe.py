"""Linear probes: what a feature network's embedding of an image tells about it (Alain and Bengio 2017)."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

DECAY = 1e-2


def classify(train: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    """Labels of `test` by logistic regression on standardised embeddings.

    Args:
        train: embeddings `(N, D)`.
        labels: integers `(N,)`, of two classes or more.
        test: embeddings `(M, D)`.

    Returns:
        `(M,)`, each one of `labels`.
    """
    # C for a mean cross-entropy plus DECAY times the squared norm of the weights
    regression = LogisticRegression(C=1 / (2 * DECAY * len(train)), tol=1e-9, max_iter=1000)
    model = make_pipeline(StandardScaler(), regression)
    model.fit(train.double().numpy(), labels.numpy())
    return torch.from_numpy(model.predict(test.double().numpy()))


def attributes_of(train: Tensor, labels: Sequence[Mapping[str, str]], test: Tensor) -> dict[str, list[str]]:
    """Tell the attributes of images, each by a probe of its own.

    Args:
        train: embeddings `(N, D)`.
        labels: attributes of each; an attribute's probe is trained on the images that have it.
        test: embeddings `(M, D)`.

    Returns:
        Values by attribute, one for each image of `test`.
    """
    found = {}
    for name in _in_order(name for known in labels for name in known):
        fitted = [k for k, known in enumerate(labels) if name in known]
        values = _in_order(labels[k][name] for k in fitted)
        numbers = torch.tensor([values.index(labels[k][name]) for k in fitted])
        found[name] = [values[k] for k in classify(train[fitted], numbers, test).tolist()]
    return found


def _in_order(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))
