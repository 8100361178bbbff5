"""YAML in, checked objects with file:line out.

For other packages: `recipe` (Recipe, load), `inventory` (devices.yaml), `pools` (its tags),
`stage_call` (Call), `limits` (--min and --max), `json_schema` (for editors), `yaml_document`
(shown, checked_name).
"""
