"""Discs that move on a plane: VMAS's dispersion and navigation, blind particle spread, and the physics they share."""

BPS_GROUPS = {
    "bps-1": (5, 5, 5),
    "bps-2": (10, 10, 10),
    "bps-3": (6, 6, 6, 6, 6),
    "bps-4": (3, 3, 3, 12, 9),
}
"""How many agents of each colour blind particle spread's variants have, by id: `large-spread-v1` to `v4` of its
authors."""
