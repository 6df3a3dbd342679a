"""Image files and tensors: reading, writing, ranges, resizing, header checks, line drawings."""
