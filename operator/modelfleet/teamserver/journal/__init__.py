"""What outlives the process: runs, what happened in them, and every call's money, written before it is spent."""
