"""An image while the scan runs: frames and positions as they are written, inference as they come."""
