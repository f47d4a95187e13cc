"""History from elsewhere into the store."""
