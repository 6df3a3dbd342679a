"""Hostile inputs, kills, signals and full disks: `make test-chaos` counts what goes wrong; docs/reliability.md."""
