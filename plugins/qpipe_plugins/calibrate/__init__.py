"""Built-in stages of kind calibrate."""
