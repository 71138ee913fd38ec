"""Multi-agent reinforcement learning whose whole training run is one compiled program, vmapped over seeds."""

__version__ = "0.1.0"
