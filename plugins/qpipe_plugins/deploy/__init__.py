"""Built-in stages of kind deploy."""
