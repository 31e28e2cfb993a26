"""How one worker trains its cohort of clients."""
