"""How the book is made: clean notebooks in, executed pages out."""
