"""Social rewards by name, with the settings of their papers.

Settings of 2602.15407 are from its authors' code. Marked "inferred": the file was not to be had, and the number is that
of the nearest one that was. Compositions of agents are in the paper's order, the low-reward or standard agent first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from covey.social.parameters import SocialParameters
from covey.social.reward import SocialReward


@dataclass(frozen=True)
class Method:
    """A social reward with the parameters that papers used it with, by environment."""

    reward: SocialReward
    presets: Mapping[str, SocialParameters]
    """Parameters by name; those of "default" where no name is given."""


_HUGHES = SocialParameters(smoothing=0.975)  # From memory of the paper, like its alpha and beta below.
_IA_HARVEST = SocialParameters(alpha=3.0, beta=0.05)
_IA_COINS = SocialParameters(alpha=0.05, beta=0.1)
_SVO_HARVEST = SocialParameters(orientation_weight=0.02)
_SVO_COINS = SocialParameters(orientation_weight=0.004)


def _weighted(parameters: SocialParameters, *weights: float) -> SocialParameters:
    return dataclasses.replace(parameters, agent_weights=weights)


METHODS: dict[str, Method] = {
    # u_i = r_i
    "selfish": Method(SocialReward(), {"default": SocialParameters()}),
    # u_i = sum_j r_j, as SocialJax's shared rewards.
    "common": Method(SocialReward("shared", share="sum"), {"default": SocialParameters()}),
    # u_i = mean of r_j over the group of i (`groups`). Paid to all of the group, removed from the board or not.
    "group_shared": Method(SocialReward("shared", share="mean"), {"default": SocialParameters()}),
    "inequity_aversion": Method(
        SocialReward("inequity"),
        {
            "default": _IA_HARVEST,
            "harvest": _IA_HARVEST,
            "coins": _IA_COINS,
            "hughes_disadvantageous": dataclasses.replace(_HUGHES, alpha=5.0),
            "hughes_advantageous": dataclasses.replace(_HUGHES, beta=0.05),
        },
    ),
    # Smoothed, clamped and in degrees, as in 2602.15407.
    "social_value_orientation": Method(
        SocialReward("orientation", clamp=True),
        {"default": _SVO_HARVEST, "harvest": _SVO_HARVEST, "coins": _SVO_COINS},
    ),
    # Of the step's own rewards, in radians. The numbers are SocialJax's; McKee et al. varied them.
    "mckee_social_value_orientation": Method(
        SocialReward("orientation", unit="radians"),
        {"default": SocialParameters(orientation_weight=0.5, target_angle=90.0, smoothing=0.0)},
    ),
    "fair_local_ia": Method(
        SocialReward("inequity", normalise="running", feedback="gossip"),
        {
            "default": _IA_HARVEST,
            "harvest_5high_5low": _weighted(_IA_HARVEST, *[4.0] * 5, *[6.0] * 5),
            "harvest_5standard_5wide_zapper": _weighted(_IA_HARVEST, *[4.0] * 5, *[6.0] * 5),  # inferred
            "coins": _weighted(_IA_COINS, 4.0, 12.0),
            "coins_1high_1low": _weighted(_IA_COINS, 4.0, 12.0),  # inferred
            "coins_1standard_1spawn_biased": _weighted(_IA_COINS, 13.0, 8.0),
        },
    ),
    "fair_local_svo": Method(
        SocialReward("orientation", normalise="running", feedback="gossip", clamp=True),
        {
            "default": _SVO_HARVEST,
            "harvest_5high_5low": _weighted(_SVO_HARVEST, *[1.0] * 5, *[1.5] * 5),
            "harvest_5standard_5wide_zapper": _weighted(_SVO_HARVEST, *[1.0] * 5, *[1.5] * 5),
            # As stored for the symmetric game; both look like left-overs.
            "coins": _weighted(SocialParameters(orientation_weight=0.02), 0.5, 20.0),
            "coins_1high_1low": _weighted(_SVO_COINS, 2.0, 6.0),
            "coins_1standard_1spawn_biased": _weighted(_SVO_COINS, 4.5, 1.5),
        },
    ),
}
"""Social rewards by name."""


def make(name: str, preset: str = "default", **settings: Any) -> tuple[SocialReward, SocialParameters]:
    """The social reward called `name` and its parameters, with some of either changed.

        social, hp = make("fair_local_ia", "harvest_5high_5low", feedback="memory", alpha=2.0)

    name: a key of `METHODS`. preset: a key of its presets. settings: fields of `SocialReward` and `SocialParameters`.
    Raises ValueError for an unknown name, preset or setting, and for values out of range.
    """
    if name not in METHODS:
        raise ValueError(f"social reward is {name!r}; allowed: {', '.join(METHODS)}")
    method = METHODS[name]
    if preset not in method.presets:
        raise ValueError(f"preset is {preset!r}; allowed for {name}: {', '.join(method.presets)}")
    static, numeric = ({field.name for field in dataclasses.fields(kind)} for kind in (SocialReward, SocialParameters))
    if unknown := set(settings) - static - numeric:
        raise ValueError(f"setting is {min(unknown)!r}; allowed: {', '.join(sorted(static | numeric))}")
    reward = dataclasses.replace(method.reward, **{k: v for k, v in settings.items() if k in static})
    if name == "group_shared" and reward.groups is None:
        raise ValueError("groups is None; allowed for group_shared: the group of each agent")
    numbers = {k: v for k, v in settings.items() if k in numeric}
    return reward, dataclasses.replace(method.presets[preset], **numbers)
