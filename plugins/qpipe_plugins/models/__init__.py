"""Built-in stages of kind import."""
