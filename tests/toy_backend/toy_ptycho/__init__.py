"""A backend as a third party would ship it: outside `ptycho_backends`, on plain NumPy."""
