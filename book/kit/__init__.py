"""What notebooks show: figures, diagrams, tables, players."""
