"""What the pages show, as frames: one module for each page, and `stored` for what they share."""
