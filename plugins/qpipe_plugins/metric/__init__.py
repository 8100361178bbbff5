"""Built-in stages of kind metric."""
