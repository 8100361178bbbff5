"""qpipe for scripts and notebooks, and what the command line stands on: recipes, runs, one network.

Its public names are those of the package `qpipe`; no other room imports it.
"""
