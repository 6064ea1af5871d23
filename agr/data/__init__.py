"""Images: which there are, how they are decoded, and how the demo's are made."""
