"""Public data sets, one file each: layout, labels, prompts."""
