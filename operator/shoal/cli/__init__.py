"""What a person types: `shoal` and `kubectl shoal`. Each command is a module with `register` and `run`."""
