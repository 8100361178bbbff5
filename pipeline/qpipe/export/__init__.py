"""Hand over a build: the bundle of a measured row."""
