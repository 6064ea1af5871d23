"""Attacks written down from their papers, one image at a time: the independent oracles."""
