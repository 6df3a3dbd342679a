"""Which files of a user's folder train, validate and test, and their captions."""
