"""Starting with a network of one's own: look at it, and write a recipe that runs."""
