"""End-to-end proof of modelfleet: the lab (a real cluster on one machine) and what runs on it."""
