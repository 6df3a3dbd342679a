"""Metrics on one, two and three processes that share out 17 images, evenly or not, with and without a summary."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from metrics.tables import TableMetric
from metrics.translation import TranslationMetrics
from networks.features import load_features

N, N_REAL, SMALL = 17, 19, 4


def images(n: int, seed: int) -> torch.Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


REAL, SOURCE = images(N_REAL, 0) * 0.5 + 0.5, images(N, 1)
FAKE, TRUTH = SOURCE * 0.4 - 0.2, SOURCE * 0.5 + 0.5


def strided(world: int) -> tuple[list[list[int]], list[list[int]]]:
    """Images and real images of each rank as the data module shares them out: no remainder, no repeats."""
    return tuple([[*range(rank, n, world)] for rank in range(world)] for n in (N, N_REAL))


ALL, ALL_REAL = [*range(N)], [*range(N_REAL)]
# Shares by number of ranks.
CASES = {
    3: {"even": strided(3), "one with none": ([ALL[:11], ALL[11:], []], [[], ALL_REAL[:4], ALL_REAL[4:]])},
    2: {
        "even": strided(2),
        # as a distributed sampler fills up; with a summary, the other rank still holds the repeated rows
        "repeats": ([ALL, [0, 2, 4, 6]], strided(2)[1]),
    },
    1: {"alone": strided(1)},
}
REPEATED_EVERYWHERE = ([ALL, ALL], strided(2)[1])


def compute(share: list[int], real: list[int], sample_size: int) -> dict[str, object]:
    """What one rank computes after adding its share of the images, and how many it evicted itself."""
    network = load_features("random")
    metrics, against_truth = (TranslationMetrics(network, network, network) for _ in range(2))
    metrics.sample_size = against_truth.sample_size = sample_size
    with torch.inference_mode():  # as Lightning validates
        for part in torch.tensor(real, dtype=torch.int64).split(4):
            if len(part):
                metrics.update_real(REAL[part], part)
        for part in torch.tensor(share, dtype=torch.int64).split(4):
            if len(part):
                metrics.update(SOURCE[part], FAKE[part], part, TRUTH[part])
                against_truth.update_real(TRUTH[part], part)
                against_truth.update(SOURCE[part], FAKE[part], part)
        evicted = sum(len(part) for part in metrics.fake_evicted)
        report = metrics.compute()
        copy = {f"copy_{key}": value for key, value in report.pop("copy_input").items()}
        with metrics.sync_context():
            each = {f"each_{key}": value.nan_to_num(nan=-1).tolist() for key, value in metrics.per_image().items()}
        other = {f"against_truth_{key}": against_truth.compute()[key] for key in ("fid", "kid", "kid_std")}
    return {"figures": {**report, **copy, **each, **other, "ready": metrics.real_ready}, "evicted": evicted}


def one_of_three(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    found = {}
    for world, cases in CASES.items():
        if rank >= world:
            continue
        store = f"file://{folder}/store-{world}"
        # a hang is an error after a minute
        dist.init_process_group("gloo", store, timedelta(seconds=60), rank=rank, world_size=world)
        for name, (shares, real) in cases.items():
            for size in (TableMetric.sample_size, SMALL):
                found[f"{world}, {name}, {size}"] = compute(shares[rank], real[rank], size)
        if world == 2:
            try:
                compute(REPEATED_EVERYWHERE[0][rank], REPEATED_EVERYWHERE[1][rank], SMALL)
            except ValueError as error:
                found["refused"] = str(error)
        dist.destroy_process_group()
    Path(folder, f"{rank}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of three ranks wrote."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.get_context("forkserver").set_forkserver_preload(["metrics.translation"])  # imported once, not by every rank
    mp.start_processes(one_of_three, (str(folder),), nprocs=3, start_method="forkserver")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(3)]


def assert_equal(figures, expected):
    assert figures.keys() == expected.keys()
    for key, value in expected.items():
        plain = isinstance(value, str | bool) or value == [] or key == "network_hashes"
        rel = 1e-5 if key.startswith("each_") else 1e-6  # of one image, in float32, in batches of other sizes
        assert figures[key] == (value if plain else pytest.approx(value, rel=rel)), key


@pytest.mark.parametrize("size", [TableMetric.sample_size, SMALL])
@pytest.mark.parametrize(("world", "name"), [(world, name) for world, cases in CASES.items() for name in cases])
def test_every_figure_is_that_of_one_rank(found, world, name, size):
    expected = compute(ALL, ALL_REAL, size)["figures"]
    assert (expected["n_fake"], expected["n_real"]) == (N, N_REAL)
    for rank in range(world):
        assert_equal(found[rank][f"{world}, {name}, {size}"]["figures"], expected)


def test_ranks_evicted_unequally_and_what_needs_no_sample_is_that_of_all_images(found):
    for world, name, evicted in ((3, "one with none", [4, 0, 0]), (2, "even", [4, 4]), (2, "repeats", [12, 0])):
        assert [found[rank][f"{world}, {name}, {SMALL}"]["evicted"] for rank in range(world)] == evicted
    sampled, whole = (compute(ALL, ALL_REAL, size)["figures"] for size in (SMALL, TableMetric.sample_size))
    assert sampled.pop("kid_images") == SMALL
    assert sampled.keys() == whole.keys()
    of_the_sample = {"fid_floor", "diversity", "each_nearest", "each_nearest_source"}
    of_the_sample |= {"kid", "kid_std", "copy_kid", "against_truth_kid", "against_truth_kid_std"}
    assert_equal(*({key: side[key] for key in whole.keys() - of_the_sample} for side in (sampled, whole)))


def test_all_ranks_refuse_images_that_would_count_twice(found):
    messages = {found[rank]["refused"] for rank in range(2)}
    assert len(messages) == 1
    assert "12 images of 'source' were given to several ranks, the first at index" in messages.pop()
