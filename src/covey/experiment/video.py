"""Pictures of an episode, and an animated GIF of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from covey.experiment.folder import atomically
from covey.learners.base import Learner


def episode_frames(
    learner: Learner, carry: Any, key: jax.Array, render: Callable[[Any], np.ndarray], limit: int = 300
) -> list[np.ndarray]:
    """Frames uint8[height, width, 3] of one greedy episode of one seed's `carry`, at most `limit` of them."""
    states, valid = jax.jit(learner.episode)(carry, key)
    # On the host, so that taking one step's state costs nothing; random keys cannot leave the device as they are.
    states = jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x), states)
    steps = np.flatnonzero(np.asarray(valid))[:limit]
    return [np.asarray(render(jax.tree.map(lambda x, t=t: x[t], states))) for t in steps]


def save_gif(path: Path, frames: Sequence[np.ndarray], fps: float = 15) -> None:
    """Write frames uint8[height, width, 3], all of one size, as a GIF that loops for ever, `fps` frames per second.

    Raises ValueError if there are none or one has another shape or type.
    """
    from PIL import Image

    if not len(frames):
        raise ValueError("frames is empty; allowed: at least one picture")
    for i, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape != frames[0].shape or frame.shape[2] != 3:
            raise ValueError(
                f"frame {i} is {frame.dtype}{list(frame.shape)}; allowed: uint8[height, width, 3] like the first frame"
            )
    # One palette for all frames, from a few of them side by side: colours do not flicker and frames compress well.
    sample = np.concatenate(list(frames[:: max(1, len(frames) // 8)]), axis=1)
    palette = Image.fromarray(sample).quantize(256)
    images = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    # GIF counts in hundredths of a second, and players slow down below two of them.
    duration = max(20, round(100 / fps) * 10)
    atomically(
        Path(path),
        lambda file: images[0].save(
            file, save_all=True, append_images=images[1:], duration=duration, loop=0, optimize=True, disposal=1
        ),
    )
