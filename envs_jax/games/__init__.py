"""Games small enough to solve by hand: matching games (`matching`) and polynomial games (`polynomial`)."""
