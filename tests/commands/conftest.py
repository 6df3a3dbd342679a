import pytest
import torch

from commands import train
from images.writing import write_image

# A run of seconds: tiny base, four feature networks that need no weights, whole images of 32 pixels.
QUICK = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.log_every_n_steps=1",
    "--model.init_args.lpips_features=random",
    "--model.init_args.discriminator=networks.PatchDiscriminator",
    "--model.init_args.discriminator.init_args.width=4",
    "--model.init_args.discriminator.init_args.layers=2",
    "--model.init_args.generator.init_args.rank_unet=4",
    "--model.init_args.generator.init_args.rank_vae=2",
    "--model.init_args.warmup_images=4",
    "--model.init_args.optimizer_g.init_args.lr=0.001",
    "--evaluation.features=random",
    "--evaluation.structure=random",
    "--evaluation.lpips=random",
    "--evaluation.captions=null",
    "--data.init_args.num_workers=0",
    "--data.init_args.resize=36",
    "--data.init_args.crop=32",
    "--data.init_args.eval_size=32",
    "--data.init_args.batch_size=1",
]


def arguments(base, data, run, *more):
    return ["--exp=clear2foggy", f"--base={base}", f"--data={data}", f"--run={run}", *QUICK, *more]


def chosen(mode):
    """The first validation is the best one (min), or the last (max), whatever the pictures look like."""
    return "--trainer.callbacks.init_args.monitor=images_seen", f"--trainer.callbacks.init_args.mode={mode}"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def folder_of_two_domains(tmp_path_factory):
    """Ten training and five test pictures per domain, of several shapes."""
    root = tmp_path_factory.mktemp("domains")
    for k, folder in enumerate(("train_A", "train_B", "test_A", "test_B")):
        for i in range(10 if "train" in folder else 5):
            noise = torch.rand(3, 40, 40 + 8 * (i % 2), generator=torch.Generator().manual_seed(100 * k + i))
            write_image(root / folder / f"{i}.png", noise * 2 - 1)
    return root


@pytest.fixture(scope="session")
def finished(two_level_base, folder_of_two_domains, tmp_path_factory):
    """A finished run of four images with a validation at every second batch, whose best state is the earlier one."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    more = ("--model.init_args.max_images=4", "--trainer.val_check_interval=2", *chosen("min"))
    assert train.main(arguments(two_level_base, folder_of_two_domains, folder, *more)) == 0
    return folder
