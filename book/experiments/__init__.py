"""What the book trains and compares: ablations, related methods, reproduction."""
