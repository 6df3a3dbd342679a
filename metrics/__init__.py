"""What a run reports: torchmetrics metrics over 8-bit pictures, equal whatever the number of ranks."""
