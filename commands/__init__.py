"""One module per make target: `python -m commands.<name>`, and `one-step <name>`."""
