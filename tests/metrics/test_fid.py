from pathlib import Path

import pytest
import torch

from metrics.fid import frechet_distance, frechet_floor, gaussian_distance
from metrics.pixels import from_uint8, to_uint8
from metrics.tables import TableMetric
from metrics.translation import TranslationMetrics
from networks.features import load_features


def sample(n: int, width: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return torch.randn(n, width, generator=generator, dtype=torch.float64) @ mix * scale + shift


def by_scipy(real: torch.Tensor, fake: torch.Tensor) -> float:
    """Heusel et al., Eq. 6, written out."""
    import numpy as np
    from scipy.linalg import sqrtm

    a, b = real.numpy(), fake.numpy()
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(s @ t)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * np.real(root)))


@pytest.mark.parametrize(("n", "m"), [(40, 50), (200, 33), (9, 200)])
def test_equals_the_formula(n, m):
    width = 6
    real, fake = sample(n, width, 0), sample(m, width, 1, shift=0.3, scale=1.4)
    assert frechet_distance(real, fake).item() == pytest.approx(by_scipy(real, fake), rel=1e-6)


def test_equals_clean_fid():
    from cleanfid.fid import frechet_distance as reference

    real, fake = sample(50, 5, 0).numpy(), sample(60, 5, 1, scale=0.7).numpy()
    moments = [x for rows in (real, fake) for x in (rows.mean(0), __import__("numpy").cov(rows, rowvar=False))]
    ours = frechet_distance(torch.from_numpy(real), torch.from_numpy(fake)).item()
    assert ours == pytest.approx(reference(*moments), rel=1e-6)


def test_equals_torch_fidelity():
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    real, fake = sample(50, 5, 0), sample(60, 5, 1, scale=0.7)
    moments = [fid_features_to_statistics(rows) for rows in (real, fake)]
    theirs = fid_statistics_to_metric(*moments, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(real, fake).item() == pytest.approx(theirs, rel=1e-4)


def test_fewer_images_than_features_agrees_with_eigenvalues():
    real, fake = sample(7, 20, 0), sample(9, 20, 1, shift=1.0)
    root = torch.linalg.eigvals(real.T.cov() @ fake.T.cov()).real.clamp(min=0).sqrt().sum()
    shift = (real.mean(0) - fake.mean(0)).square().sum()
    expected = shift + real.T.cov().trace() + fake.T.cov().trace() - 2 * root
    assert frechet_distance(real, fake).item() == pytest.approx(expected.item(), rel=1e-6)


def test_known_gaussians():
    # N(0, I) against N((3, 0), 4 I) in the plane: 9 + 2 (1 + 4 - 2 * 2) = 11, here with exact sample moments
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) * (3 / 4) ** 0.5
    assert frechet_distance(corners, corners * 2 + torch.tensor([3.0, 0.0])).item() == pytest.approx(11, rel=1e-6)


def test_same_set_is_zero_and_a_large_mean_costs_no_digits():
    real, fake = sample(40, 6, 0), sample(40, 6, 1, scale=1.2)
    assert frechet_distance(real, real).item() == pytest.approx(0, abs=1e-9)
    near, far = frechet_distance(real, fake), frechet_distance(real + 1e4, fake + 1e4)
    assert far.item() == pytest.approx(near.item(), rel=1e-6)


def test_one_image_gives_nan():
    assert frechet_distance(sample(1, 3, 0), sample(5, 3, 1)).isnan()
    assert frechet_floor(sample(3, 3, 0)).isnan()
    assert frechet_floor(sample(4, 3, 0)).isfinite()


def test_floor_shrinks_with_more_images():
    assert frechet_floor(sample(800, 4, 0)) < frechet_floor(sample(40, 4, 0))


def images(n: int, seed: int) -> torch.Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class Sets(TableMetric):
    """Features of a real and a fake set, filled without a network."""

    sample_size = 16

    def __init__(self) -> None:
        super().__init__()
        self.add_features("real", 32)
        self.add_features("fake", 32)

    def update(self) -> None: ...

    def compute(self) -> None: ...


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_a_summary_of_hundreds_of_images_changes_nothing(offset):
    """Of 32 features, so that rows are evicted both before and after the summary has full rank."""
    metric = Sets()
    real, fake = (part.float() for part in (sample(700, 32, 0) + offset, sample(600, 32, 1, shift=0.3) + offset))
    for rows, name in ((real, "real"), (fake, "fake")):
        for part in torch.arange(len(rows)).split(7):
            metric.append(name, part, rows[part])
    found = gaussian_distance(metric.moments("real"), metric.moments("fake"))
    assert found.item() == pytest.approx(frechet_distance(real, fake).item(), rel=1e-6)


def test_brightness_order():
    network = load_features("lite0")
    smooth = torch.nn.functional.interpolate(images(6, 0)[:, :, :4, :4], 32, mode="bilinear")
    distances = []
    for gain in (1.0, 0.9, 0.3):
        real, fake = (network.embedding(from_uint8(to_uint8(image))) for image in (smooth, smooth * gain))
        distances.append(frechet_distance(real, fake).item())
    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert distances[0] < distances[1] < distances[2]


def test_equals_torchmetrics_own():
    """Its `FrechetInceptionDistance` around the same network, image by image."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Embedding(torch.nn.Module):
        num_features = 32

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return network.embedding(from_uint8(pixels)).double()

    network = load_features("random")
    ours = TranslationMetrics(network, network, network)
    theirs = FrechetInceptionDistance(feature=Embedding()).set_dtype(torch.float64)
    for real in (True, False):
        image = torch.rand(90, 3, 16, 16, generator=torch.Generator().manual_seed(int(real))) * (1.0 + real) - 1
        if real:
            ours.update_real(image, torch.arange(90))
        else:
            ours.update(image, image, torch.arange(90))
        theirs.update(to_uint8(image), real=real)
    assert ours.compute()["fid"] == pytest.approx(theirs.compute().item(), rel=1e-4)


CLEAN_FIDS_OWN = Path("/tmp/inception-2015-12-05.pt")  # where clean-fid keeps its weights


@pytest.mark.slow
@pytest.mark.skipif(not CLEAN_FIDS_OWN.is_file(), reason=f"clean-fid's Inception weights are not at {CLEAN_FIDS_OWN}")
def test_inception_s_fid_of_two_folders_is_clean_fids(tmp_path):
    """The whole way: files, resize, features, distance; two ports of one network."""
    from cleanfid.fid import compute_fid

    from datamodules.scenes import render
    from images.reading import read_image
    from images.writing import write_image

    try:
        metrics = TranslationMetrics("inception", "random", "random")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    for domain in "ab":
        for k in range(64):
            path = tmp_path / domain / f"{k}.png"
            write_image(path, render("clear_foggy", domain, 0, k + 64 * (domain == "b"), 160))
            image, index = read_image(path)[None], torch.tensor([k])
            if domain == "b":
                metrics.update_real(image, index)
            else:
                metrics.update(image, image, index)
    settings = {"mode": "clean", "num_workers": 0, "batch_size": 16, "use_dataparallel": False, "verbose": False}
    theirs = compute_fid(str(tmp_path / "a"), str(tmp_path / "b"), device=torch.device("cpu"), **settings)
    assert metrics.compute()["fid"] == pytest.approx(theirs, abs=0.1)
