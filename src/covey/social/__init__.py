"""Social rewards: agents that mind what others get, as pure functions around any learner and environment.

social, hp = covey.social.make("fair_local_ia", "harvest_5high_5low")
state = social.init(num_agents)
state, shaped, diagnostics = social.step(state, rewards, visible, done, hp)
"""

from covey.social.methods import METHODS, Method, make
from covey.social.parameters import SocialParameters
from covey.social.reward import SocialReward, SocialState

__all__ = ["METHODS", "Method", "SocialParameters", "SocialReward", "SocialState", "make"]
