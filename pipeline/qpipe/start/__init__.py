"""`qpipe new`: look at a network and its samples, and write a recipe that runs.

For other packages: `new_recipe` (write_new_recipe), `demo` (unpack); the rest are its parts.
"""
