"""What reproduces the figures that the documentation states. `python -m bench --help`."""
