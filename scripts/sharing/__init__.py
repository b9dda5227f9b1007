"""The page of a shared checkpoint."""
