"""From object patches to pictures: stitching, metrics, figures, and result files."""
