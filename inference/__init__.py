"""From image files to translated image files."""
