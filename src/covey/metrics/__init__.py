"""What to measure of agents beside their returns."""
