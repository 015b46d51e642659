"""`params.cfg`, PtychoPINN's flat dictionary, and the bridge that fills it from a configuration."""
