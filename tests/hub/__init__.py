"""Every way in which a model hub can fail."""
