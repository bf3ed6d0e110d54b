"""What users write: models without behaviour, conditions and their reasons, and the CRDs made of them."""
