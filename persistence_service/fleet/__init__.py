"""Several workers that are one service: what they share, and how they ask each other."""
