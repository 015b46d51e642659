"""Readers of scans, one file for each format; `table` lists them and finds the one for a file."""
