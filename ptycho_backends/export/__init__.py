"""Models, images and scans in the formats of other programs; docs/export.md lists them."""
