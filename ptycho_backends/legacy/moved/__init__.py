"""Modules under the names that they had before the layout by subject; each is an alias of the module it names."""
