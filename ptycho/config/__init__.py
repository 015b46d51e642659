"""Configuration under the legacy names; imports no framework."""
