"""The operator's loop: observe, plan, act."""
