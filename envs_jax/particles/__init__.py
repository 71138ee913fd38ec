"""Discs that move on a plane: VMAS's dispersion and navigation, and the physics they share."""
