"""Adapters on disk: this project's own format, the authors' released files, and diffusers' LoRA."""
