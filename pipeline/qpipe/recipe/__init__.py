"""YAML in, checked objects with file:line out: recipes and inventories."""
