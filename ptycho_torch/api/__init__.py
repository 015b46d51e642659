"""The programming interface through which Ptychodus trains and reconstructs."""
