"""`qpipe new`: look at a network and its samples, and write a recipe that runs.

For other packages: `new_recipe` (write_new_recipe), `demo` (unpack), `new_plugin`
(write_new_plugin, from the files of `plugin_templates`), and what a new recipe holds:
`eight_bits`, `feeding`, `feeding_choice`, `network_facts`, `network_family`, `recipe_text`,
`sample_sources`, `scalings`.
"""
