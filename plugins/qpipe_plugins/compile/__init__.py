"""Built-in stages of kind compile."""
