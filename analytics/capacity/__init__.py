"""What the power tree carries, what it could carry with any one part lost, and until when that is enough."""
