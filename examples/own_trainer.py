"""Train CycleGAN-Turbo by a script of your own: a Lightning module and a data module, without Make and YAML.

python examples/own_trainer.py [FOLDER] [--images 300]    (without a folder, rendered scenes of day and night)
"""

import argparse
from functools import partial

import lightning
import torch

from datamodules import DayNight
from lightning_modules import CycleGANTurbo
from lightning_modules.unpaired import UnpairedWeights
from networks import EnsembleDiscriminator, OneStepGenerator, PatchDiscriminator, VisionAidedDiscriminator
from networks.checkpoints.adapter import save_adapter


def main(args: list[str] | None = None) -> None:
    """Train, and write the adapter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", help="with train_A/ and train_B/")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--out", default="own_adapter")
    options = parser.parse_args(args)
    lightning.seed_everything(0)
    data = DayNight(root=options.folder, resize=128, crop=128, eval_size=128, batch_size=1)
    model = CycleGANTurbo(
        generator=OneStepGenerator("pocket", rank_unet=16, rank_vae=16, alpha_vae=32),
        discriminator=EnsembleDiscriminator([VisionAidedDiscriminator("lite1", augment=False), PatchDiscriminator(32)]),
        optimizer_g=partial(torch.optim.AdamW, lr=1e-3, betas=(0.5, 0.999)),
        optimizer_d=partial(torch.optim.AdamW, lr=1e-4, betas=(0.5, 0.999)),
        prompts=data.prompts,
        weights=UnpairedWeights(gan=0.1),
        lpips_features="lite1",  # the networks that come with the package
        max_images=options.images,
        skip_lr_factor=10.0,
    )
    trainer = lightning.Trainer(max_epochs=-1, limit_val_batches=0, logger=False, enable_checkpointing=False)
    trainer.fit(model, data)
    print(f"Adapter: {save_adapter(model.generator, options.out, model.run)}")


if __name__ == "__main__":
    main()
