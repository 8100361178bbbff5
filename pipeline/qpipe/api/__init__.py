"""qpipe for scripts and notebooks: what the command line does, as Python objects.

Other rooms may use:

- recipes: load a recipe, plan it, run it
- finished_runs: runs of a database, what they measured, and what they recommend
- one_network: quantize one network by a chain of stages
"""
