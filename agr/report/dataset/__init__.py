"""Records of finished cells as a data set that others can load."""
