"""The book: its pages, and what only the book shows or runs. Used from a checkout."""
