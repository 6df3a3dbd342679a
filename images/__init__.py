"""Image files and pixels: listing, reading, writing, value ranges, resizing, header checks, line drawings."""
