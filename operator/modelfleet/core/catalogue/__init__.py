"""AcceleratorClass x node labels -> which nodes are whose, and how many devices are free."""
