"""Bridges to other libraries, imported only where they are used: `envs_jax.compat.jaxmarl`."""
