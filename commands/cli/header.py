"""Header that `make train` prints before training: data, base, what trains, networks, device and run folder."""

import torch

from commands.cli.lightning_cli import TrainCLI


def header(cli: TrainCLI, images_seen: int = 0) -> str:
    """Build the header, one line per fact.

    Args:
        cli: model, data and trainer of the run.
        images_seen: of the run that is resumed.
    """
    generator = cli.model.generator
    trained = _trained(generator)
    discriminators = _trained(cli.model.discriminators)
    prompts = ", ".join(f"{direction} {prompt!r}" for direction, prompt in generator.prompts.items())
    facts = {
        "data": cli.datamodule.description,
        "base": generator.base_description,
        "prompts": prompts,
        "trains": f"{trained:,} of {_all(generator):,} generator parameters, {discriminators:,} of discriminators",
        "networks": f"training {', '.join(cli.model.training_features) or 'none'}; metrics {_metrics(cli)}",
        "device": _device(cli),
        "run folder": str(cli.run_folder),
    }
    if generator.compiled_blocks:
        facts["compiled"] = f"{generator.compiled_blocks} blocks of the generator (meant for CUDA, not measured there)"
    if cli.trainer.max_steps >= 0:
        facts["max_steps"] = (
            f"{cli.trainer.max_steps} steps of generator and discriminators together, several for each batch; "
            "model.init_args.max_images counts images"
        )
    if images_seen:
        facts["resumed at"] = f"{images_seen:,} images"
    lines = [*facts.items(), *(("warning", doubt) for doubt in cli.datamodule.suspicions())]
    return "\n".join(f"{name:<11}{fact}" for name, fact in lines)


def _all(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _trained(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _metrics(cli: TrainCLI) -> str:
    """The feature networks of the scores."""
    scorer = cli.scoring.scorer
    names = {"FID and KID": scorer.names["features"], "structure": scorer.names["structure"]}
    names |= {"LPIPS": scorer.names["lpips"]}
    if scorer.captions is not None:
        names["captions"] = scorer.captions
    resized = f" (images resized by {scorer.resize})" if scorer.resize else ""
    return ", ".join(f"{score} {network}" for score, network in names.items()) + resized


def _device(cli: TrainCLI) -> str:
    trainer = cli.trainer
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{trainer.world_size} x {name}, precision {trainer.precision}"
