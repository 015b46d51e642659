"""Bytes in, arrays out, in bounded memory: zip, HDF5, NPZ, pickles, JSON; and atomic writes."""
