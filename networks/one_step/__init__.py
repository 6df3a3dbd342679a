"""The method: a one-step text-to-image model turned into an image-to-image network (arXiv 2403.12036, Sec. 3)."""
