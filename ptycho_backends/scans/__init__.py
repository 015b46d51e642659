"""Measured data: scans, their files, products, groups of positions, and simulated scans."""
