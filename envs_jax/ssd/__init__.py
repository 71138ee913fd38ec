"""Sequential social dilemmas on a grid: Cleanup, Harvest and Coins, with roles as data."""
