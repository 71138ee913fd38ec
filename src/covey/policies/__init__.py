"""Networks with an explicit agent axis, and schemes that decide which weights agents share."""

from covey.policies.actor_critic import ActorCritic, PolicyConfig, make_scheme

__all__ = ["ActorCritic", "PolicyConfig", "make_scheme"]
