"""Images: found, labelled, decoded and cached."""
