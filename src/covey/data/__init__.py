"""Offline data: one container, our own format on disk, loaders of others' formats, and collection inside JAX.

`python -m covey.data --help` inspects, converts, merges, subsamples and draws datasets. See docs/offline_data.md.
"""

from covey.data.collect import Rollout, collect, from_rollout, rollout
from covey.data.dataset import (
    DataError,
    Dataset,
    LeafStatistics,
    Statistics,
    Windows,
    check,
    episode_returns,
    from_transitions,
    merge,
    split,
    statistics,
    step_rows,
    subsample,
    take_episodes,
    team_reward,
    to_device,
    window_starts,
    windows,
)
from covey.data.joint_actions import Gaussian, Law, Mixture, PointMass, Uniform, joint_action_samples
from covey.data.loaders import (
    FORMATS,
    detect,
    load_madiff,
    load_minari,
    load_omar,
    load_omiga,
    load_vault,
    read,
)
from covey.data.storage import load, save

__all__ = [
    "FORMATS",
    "DataError",
    "Dataset",
    "Gaussian",
    "Law",
    "LeafStatistics",
    "Mixture",
    "PointMass",
    "Rollout",
    "Statistics",
    "Uniform",
    "Windows",
    "check",
    "collect",
    "detect",
    "episode_returns",
    "from_rollout",
    "from_transitions",
    "joint_action_samples",
    "load",
    "load_madiff",
    "load_minari",
    "load_omar",
    "load_omiga",
    "load_vault",
    "merge",
    "read",
    "rollout",
    "save",
    "split",
    "statistics",
    "step_rows",
    "subsample",
    "take_episodes",
    "team_reward",
    "to_device",
    "window_starts",
    "windows",
]
