"""Folders of image files: their layout, splits, captions and inspection."""
