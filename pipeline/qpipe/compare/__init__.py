"""From measurements to a decision."""
