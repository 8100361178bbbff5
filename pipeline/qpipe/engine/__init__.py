"""Plan the steps of a recipe, run them on the host and on devices, and record what they give."""
