"""The bundle to ship: a measured build, how to feed and load it, and proof that it runs.

Other rooms may use:

- from_run: writes the bundle of a row of a run

`shipped` holds the Python files that travel in every bundle.
"""
