"""What exists and how it is measured."""
