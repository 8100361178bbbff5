"""Search for schemes that no row of a recipe dominates: search is for the command line."""
