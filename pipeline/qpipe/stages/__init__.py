"""What a stage is and which there are: plugins found, signatures read as schemas.

Other rooms use all of its modules but the last:

- registry: the installed plugins and those of a recipe, and the stages that they registered
- options: the needs and options of a stage, read from its signature; values checked by them
- bounds: types of numeric options with their limits, for the signatures of stages
- option_types: a type in the words of who writes a recipe; `options` alone uses it
"""
