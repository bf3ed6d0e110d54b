"""What is seen, as status: conditions and the figures of each kind."""
