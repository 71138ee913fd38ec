"""Learners: one seed's training as pure functions. `covey.experiment` compiles and vmaps them."""
