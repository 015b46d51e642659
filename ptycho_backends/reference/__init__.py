"""The mathematics once, in NumPy float64: the arbiter when two backends disagree."""
