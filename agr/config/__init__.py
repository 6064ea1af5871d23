"""Configs: schema, composition, validation, and the cell that a config means."""
