"""Records of cells: files, progress, audit. Needs neither torch nor timm."""
