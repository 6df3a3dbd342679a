"""What the commands share: LightningCLI, composition of experiments, error messages."""
